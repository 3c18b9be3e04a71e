import com.fasterxml.jackson.databind.JsonNode;
import java.nio.charset.StandardCharsets;
import java.util.HashSet;
import java.util.Iterator;
import java.util.Set;

/** What a verb was called with. A name that the verb did not ask for is an error: it would be a slip in a test. */
final class Args {
  private final JsonNode node;
  private final Set<String> asked = new HashSet<>();

  Args(JsonNode node) {
    this.node = node;
  }

  private JsonNode get(String name) {
    asked.add(name);
    JsonNode found = node.get(name);
    return found == null || found.isNull() ? null : found;
  }

  boolean has(String name) {
    return get(name) != null;
  }

  String text(String name) {
    JsonNode found = get(name);
    if (found == null) throw new IllegalArgumentException(name + " is missing");
    return found.asText();
  }

  String text(String name, String otherwise) {
    return has(name) ? text(name) : otherwise;
  }

  int number(String name, int otherwise) {
    JsonNode found = get(name);
    return found == null ? otherwise : found.intValue();
  }

  /** Ids, positions and transaction ids are decimal strings: a number of JavaScript may not hold them. */
  long id(String name) {
    return Long.parseLong(text(name));
  }

  long id(String name, long otherwise) {
    return has(name) ? id(name) : otherwise;
  }

  boolean flag(String name) {
    JsonNode found = get(name);
    return found != null && found.asBoolean();
  }

  byte[] bytes(String name) {
    return text(name, "").getBytes(StandardCharsets.UTF_8);
  }

  JsonNode node(String name) {
    return get(name);
  }

  void done() {
    for (Iterator<String> names = node.fieldNames(); names.hasNext(); ) {
      String name = names.next();
      if (!asked.contains(name)) throw new IllegalArgumentException("no such argument: " + name);
    }
  }
}
