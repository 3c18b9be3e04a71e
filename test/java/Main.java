import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

/**
 * The original Java clients of BookKeeper and DistributedLog as a process that tests call: `Main PORT ZOOKEEPER LEDGERS`
 * connects to a port of 127.0.0.1 and answers each line of JSON, {"id", "verb", "args"}, with one line, {"id", "result"}
 * or {"id", "error"}. Each call has a thread of its own, so one that waits holds up no other. The process ends with the
 * connection, closing nothing: what it holds is left as a crash leaves it.
 */
public final class Main {
  static final ObjectMapper JSON = new ObjectMapper();

  private final Ledgers ledgers;
  private final Streams streams;
  private final Writers writers;
  private final Readers readers;
  private final Tree tree;
  private final Benchmarks benchmarks;

  private Main(String zookeeper, String ledgersPath) {
    Handles handles = new Handles();
    ledgers = new Ledgers(zookeeper, ledgersPath, handles);
    streams = new Streams(zookeeper, ledgersPath);
    writers = new Writers(streams, handles);
    readers = new Readers(streams, handles);
    tree = new Tree(zookeeper);
    benchmarks = new Benchmarks(ledgers, streams);
  }

  public static void main(String[] args) throws IOException {
    Main main = new Main(args[1], args[2]);
    ExecutorService threads = Executors.newCachedThreadPool();
    try (Socket socket = new Socket(InetAddress.getLoopbackAddress(), Integer.parseInt(args[0]))) {
      socket.setTcpNoDelay(true);
      OutputStream out = socket.getOutputStream();
      InputStreamReader in = new InputStreamReader(socket.getInputStream(), StandardCharsets.UTF_8);
      BufferedReader lines = new BufferedReader(in);
      for (String line; (line = lines.readLine()) != null; ) {
        JsonNode call = JSON.readTree(line);
        threads.execute(() -> send(out, main.answer(call)));
      }
    } finally {
      Runtime.getRuntime().halt(0);
    }
  }

  private static void send(OutputStream out, ObjectNode answer) {
    byte[] line = (answer.toString() + "\n").getBytes(StandardCharsets.UTF_8);
    synchronized (out) {
      try {
        out.write(line);
        out.flush();
      } catch (IOException e) {
        Runtime.getRuntime().halt(0); // the test has ended
      }
    }
  }

  private ObjectNode answer(JsonNode call) {
    ObjectNode answer = JSON.createObjectNode().put("id", call.get("id").intValue());
    try {
      Args args = new Args(call.get("args"));
      answer.set("result", run(call.get("verb").asText(), args));
      args.done();
    } catch (Throwable e) {
      Throwable cause = e;
      while ((cause instanceof ExecutionException || cause instanceof CompletionException) && cause.getCause() != null) {
        cause = cause.getCause();
      }
      answer.remove("result");
      answer.putObject("error").put("type", cause.getClass().getSimpleName()).put("message", String.valueOf(cause.getMessage()));
    }
    return answer;
  }

  private ObjectNode run(String verb, Args args) throws Exception {
    return switch (verb) {
      case "ledger.create" -> ledgers.create(args);
      case "ledger.open" -> ledgers.open(args);
      case "ledger.add" -> ledgers.add(args);
      case "ledger.read" -> ledgers.read(args);
      case "ledger.follow" -> ledgers.follow(args);
      case "ledger.close" -> ledgers.close(args);
      case "ledger.delete" -> ledgers.delete(args);
      case "ledger.metadata" -> ledgers.metadata(args);
      case "namespace.bind" -> streams.bind(args);
      case "namespace.list" -> streams.list(args);
      case "stream.create" -> streams.create(args);
      case "stream.delete" -> streams.delete(args);
      case "stream.info" -> streams.info(args);
      case "writer.open" -> writers.open(args);
      case "writer.write" -> writers.write(args);
      case "writer.truncate" -> writers.truncate(args);
      case "writer.end" -> writers.end(args);
      case "writer.close" -> writers.close(args);
      case "reader.open" -> readers.open(args);
      case "reader.read" -> readers.read(args);
      case "reader.close" -> readers.close(args);
      case "bench.add" -> benchmarks.add(args);
      case "bench.write" -> benchmarks.write(args);
      case "bench.read" -> benchmarks.read(args);
      case "tree.dump" -> tree.dump(args);
      case "tree.put" -> tree.put(args);
      case "tree.delete" -> tree.delete(args);
      default -> throw new IllegalArgumentException("no such verb: " + verb);
    };
  }
}
