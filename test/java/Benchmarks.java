import com.fasterxml.jackson.databind.node.ObjectNode;
import com.sun.management.OperatingSystemMXBean;
import java.lang.management.ManagementFactory;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.bookkeeper.client.BKException;
import org.apache.bookkeeper.client.BookKeeper;
import org.apache.bookkeeper.client.LedgerHandle;
import org.apache.distributedlog.DLSN;
import org.apache.distributedlog.DistributedLogConfiguration;
import org.apache.distributedlog.LogRecord;
import org.apache.distributedlog.LogRecordWithDLSN;
import org.apache.distributedlog.api.AsyncLogReader;
import org.apache.distributedlog.api.AsyncLogWriter;
import org.apache.distributedlog.api.DistributedLogManager;
import org.apache.distributedlog.api.namespace.Namespace;

/**
 * How fast the original clients are, timed in their own process. Every payload is the same array, so that nothing is
 * counted but the client.
 */
final class Benchmarks {
  private static final OperatingSystemMXBean SYSTEM =
      (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
  private static final int READ_TOGETHER = 1_000;

  private final Ledgers ledgers;
  private final Streams streams;

  Benchmarks(Ledgers ledgers, Streams streams) {
    this.ledgers = ledgers;
    this.streams = streams;
  }

  /** One measurement: so many operations, a number of them under way at a time. */
  private static final class Measure {
    private final int outstanding;
    private final Semaphore room;
    private final long[] tookNs;
    private final AtomicInteger done = new AtomicInteger();
    private volatile Throwable failure;
    private final long begunNs = System.nanoTime();
    private final long cpuNs = SYSTEM.getProcessCpuTime();

    Measure(int count, int outstanding) {
      this.outstanding = outstanding;
      this.room = new Semaphore(outstanding);
      this.tookNs = new long[count];
    }

    long begin() throws InterruptedException {
      room.acquire();
      return System.nanoTime();
    }

    void end(long beganNs, Throwable error) {
      if (error != null) failure = error;
      tookNs[done.getAndIncrement()] = System.nanoTime() - beganNs;
      room.release();
    }

    /** Once all are answered. */
    ObjectNode result() throws Exception {
      if (!room.tryAcquire(outstanding, 60, TimeUnit.SECONDS)) throw new IllegalStateException("not all were answered");
      if (failure != null) throw new IllegalStateException(failure);
      ObjectNode node = Main.JSON.createObjectNode();
      node.put("wallMs", (System.nanoTime() - begunNs) / 1e6).put("cpuMs", (SYSTEM.getProcessCpuTime() - cpuNs) / 1e6);
      Arrays.sort(tookNs);
      return node.put("p50Ms", at(0.5)).put("p99Ms", at(0.99));
    }

    private double at(double fraction) {
      return tookNs[Math.min(tookNs.length - 1, (int) (tookNs.length * fraction))] / 1e6;
    }
  }

  /** Entries into a ledger of its own. */
  ObjectNode add(Args args) throws Exception {
    int count = args.number("count", 1), outstanding = args.number("outstanding", 1);
    byte[] payload = Payloads.make("text", 0, args.number("size", 1024));
    LedgerHandle ledger = ledgers.client().createLedger(3, 3, 2, BookKeeper.DigestType.CRC32, new byte[0]);
    Measure measure = new Measure(count, outstanding);
    for (int i = 0; i < count; i++) {
      long beganNs = measure.begin();
      ledger.asyncAddEntry(payload, (rc, handle, entry, context) ->
          measure.end(beganNs, rc == BKException.Code.OK ? null : BKException.create(rc)), null);
    }
    ObjectNode result = measure.result();
    ledger.close();
    return result;
  }

  /** Records into streams of their own, in turn; opening them is not counted. */
  ObjectNode write(Args args) throws Exception {
    int count = args.number("count", 1), outstanding = args.number("outstanding", 1), many = args.number("streams", 1);
    byte[] payload = Payloads.make("text", 0, args.number("size", 1024));
    String name = args.text("stream");
    DistributedLogConfiguration conf = Writers.configuration(args);
    Namespace namespace = streams.namespace(args, conf);
    List<DistributedLogManager> logs = new ArrayList<>();
    List<AsyncLogWriter> writers = new ArrayList<>();
    for (int i = 0; i < many; i++) {
      DistributedLogManager log = namespace.openLog(name + "-" + i);
      logs.add(log);
      AsyncLogWriter writer = Streams.await(log.openAsyncLogWriter());
      Streams.await(writer.write(new LogRecord(1, payload)));
      writers.add(writer);
    }
    Measure measure = new Measure(count, outstanding);
    for (int i = 0; i < count; i++) {
      long beganNs = measure.begin();
      writers.get(i % many).write(new LogRecord(i + 2, payload))
          .whenComplete((dlsn, error) -> measure.end(beganNs, error));
    }
    ObjectNode result = measure.result();
    for (AsyncLogWriter writer : writers) Streams.await(writer.asyncClose());
    for (DistributedLogManager log : logs) log.close();
    Streams.closeSoon(namespace);
    return result;
  }

  /** A stream from its head; what is counted begins with the opening of the reader. */
  ObjectNode read(Args args) throws Exception {
    int count = args.number("count", 1);
    Namespace namespace = streams.namespace(args, Streams.configuration());
    DistributedLogManager log = namespace.openLog(args.text("stream"));
    Measure measure = new Measure(1, 1);
    long beganNs = measure.begin(), bytes = 0;
    AsyncLogReader reader = Streams.await(log.openAsyncLogReader(DLSN.InitialDLSN));
    for (int read = 0; read < count; ) {
      for (LogRecordWithDLSN record : Streams.await(reader.readBulk(READ_TOGETHER))) {
        bytes += record.getPayload().length;
        read++;
      }
    }
    measure.end(beganNs, null);
    ObjectNode result = measure.result().put("bytes", bytes);
    Streams.await(reader.asyncClose());
    log.close();
    Streams.closeSoon(namespace);
    return result;
  }
}
