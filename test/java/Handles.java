import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentMap;
import java.util.concurrent.atomic.AtomicInteger;

/** What calls leave open, by the names that later calls use. */
final class Handles {
  private final ConcurrentMap<String, Object> open = new ConcurrentHashMap<>();
  private final AtomicInteger last = new AtomicInteger();

  String keep(String kind, Object what) {
    String name = kind + last.incrementAndGet();
    open.put(name, what);
    return name;
  }

  <T> T get(Args args, Class<T> type) {
    return of(open.get(args.text("handle")), args, type);
  }

  <T> T take(Args args, Class<T> type) {
    return of(open.remove(args.text("handle")), args, type);
  }

  private static <T> T of(Object found, Args args, Class<T> type) {
    if (!type.isInstance(found)) throw new IllegalArgumentException(args.text("handle") + " is no " + type.getSimpleName());
    return type.cast(found);
  }
}
