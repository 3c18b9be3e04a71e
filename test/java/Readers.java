import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import org.apache.distributedlog.DLSN;
import org.apache.distributedlog.DistributedLogConfiguration;
import org.apache.distributedlog.LogRecordWithDLSN;
import org.apache.distributedlog.api.AsyncLogReader;
import org.apache.distributedlog.api.DistributedLogManager;
import org.apache.distributedlog.api.namespace.Namespace;
import org.apache.distributedlog.exceptions.EndOfStreamException;
import org.apache.distributedlog.exceptions.LogEmptyException;

/** Readers of streams. */
final class Readers {
  private final Streams streams;
  private final Handles handles;

  private static final class Open {
    final Namespace namespace;
    final DistributedLogManager log;
    final AsyncLogReader reader;
    /** A read that was not answered in time is the next one's answer. */
    CompletableFuture<LogRecordWithDLSN> waiting;

    Open(Namespace namespace, DistributedLogManager log, AsyncLogReader reader) {
      this.namespace = namespace;
      this.log = log;
      this.reader = reader;
    }
  }

  Readers(Streams streams, Handles handles) {
    this.streams = streams;
    this.handles = handles;
  }

  /** From a `dlsn`, from the first record with a `txid` not below one, from the `tail`, else from the head. */
  ObjectNode open(Args args) throws Exception {
    DistributedLogConfiguration conf = Streams.configuration();
    conf.setIgnoreTruncationStatus(args.flag("ignoreTruncation"));
    conf.setAlertWhenPositioningOnTruncated(args.flag("alertOnTruncated"));
    Namespace namespace = streams.namespace(args, conf);
    try {
      DistributedLogManager log = namespace.openLog(args.text("stream"));
      CompletableFuture<AsyncLogReader> opening = args.has("txid")
          ? log.openAsyncLogReader(args.id("txid"))
          : log.openAsyncLogReader(start(args, log));
      Open open = new Open(namespace, log, Streams.await(opening));
      return Main.JSON.createObjectNode().put("handle", handles.keep("reader", open));
    } catch (Exception e) {
      Streams.closeSoon(namespace);
      throw e;
    }
  }

  private static DLSN start(Args args, DistributedLogManager log) throws Exception {
    if (args.has("dlsn")) return Streams.dlsn(args.text("dlsn"));
    if (!args.flag("tail")) return DLSN.InitialDLSN;
    try {
      return log.getLastDLSN().getNextDLSN();
    } catch (LogEmptyException e) {
      return DLSN.InitialDLSN;
    }
  }

  /** Reads until so many records are read, or the one at `last`, or none comes for a time, or the stream has ended. */
  ObjectNode read(Args args) throws Exception {
    Open open = handles.get(args, Open.class);
    int count = args.number("count", Integer.MAX_VALUE), timeoutMs = args.number("timeoutMs", 10_000);
    DLSN last = args.has("last") ? Streams.dlsn(args.text("last")) : null;
    boolean each = args.flag("each");
    ObjectNode result = Main.JSON.createObjectNode();
    ArrayNode records = each ? result.putArray("records") : null;
    Payloads read = new Payloads();
    LogRecordWithDLSN first = null, latest = null;
    String why = "count";
    while (read.count < count) {
      if (open.waiting == null) open.waiting = open.reader.readNext();
      try {
        latest = open.waiting.get(timeoutMs, TimeUnit.MILLISECONDS);
      } catch (TimeoutException e) {
        why = "timeout";
        break;
      } catch (ExecutionException e) {
        if (!(e.getCause() instanceof EndOfStreamException)) throw e;
        why = "ended";
        break;
      }
      open.waiting = null;
      if (first == null) first = latest;
      add(latest, read, records);
      if (last != null && latest.getDlsn().compareTo(last) >= 0) {
        why = "last";
        break;
      }
    }
    result.put("count", read.count).put("bytes", read.bytes).put("why", why).put("digest", read.hex());
    result.put("first", first == null ? null : Streams.text(first.getDlsn()));
    return result.put("last", latest == null ? null : Streams.text(latest.getDlsn()));
  }

  private static void add(LogRecordWithDLSN record, Payloads read, ArrayNode records) {
    DLSN at = record.getDlsn();
    byte[] payload = record.getPayload();
    read.add(payload, at.getLogSegmentSequenceNo(), at.getEntryId(), at.getSlotId(), record.getTransactionId());
    if (records == null) return;
    ObjectNode node = records.addObject().put("dlsn", Streams.text(at)).put("txid", Long.toString(record.getTransactionId()));
    node.put("sequenceId", Long.toString(record.getSequenceId())).put("position", record.getPositionWithinLogSegment());
    node.put("bytes", payload.length);
  }

  ObjectNode close(Args args) throws Exception {
    Open open = handles.take(args, Open.class);
    Streams.await(open.reader.asyncClose());
    open.log.close();
    Streams.closeSoon(open.namespace);
    return Main.JSON.createObjectNode();
  }
}
