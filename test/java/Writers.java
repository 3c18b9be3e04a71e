import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.nio.ByteBuffer;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import org.apache.distributedlog.DLSN;
import org.apache.distributedlog.DistributedLogConfiguration;
import org.apache.distributedlog.LogRecord;
import org.apache.distributedlog.LogRecordSet;
import org.apache.distributedlog.api.AsyncLogWriter;
import org.apache.distributedlog.api.DistributedLogManager;
import org.apache.distributedlog.api.namespace.Namespace;
import org.apache.distributedlog.io.CompressionCodec;

/** Writers of streams. */
final class Writers {
  private static final int OUTSTANDING = 500;

  private final Streams streams;
  private final Handles handles;

  private record Open(Namespace namespace, DistributedLogManager log, AsyncLogWriter writer) {}

  Writers(Streams streams, Handles handles) {
    this.streams = streams;
    this.handles = handles;
  }

  /** `immediate`: every record is flushed and published by a control record; else a buffer that is flushed after a time. */
  static DistributedLogConfiguration configuration(Args args) {
    DistributedLogConfiguration conf = Streams.configuration();
    conf.setEnsembleSize(args.number("ensemble", 3));
    conf.setWriteQuorumSize(args.number("writeQuorum", 3));
    conf.setAckQuorumSize(args.number("ackQuorum", 2));
    conf.setCompressionType(args.text("compression", "none"));
    conf.setMaxLogSegmentBytes(args.id("segmentBytes", 256 << 20));
    conf.setLockTimeout(args.number("lockTimeoutSeconds", 0));
    boolean immediate = args.flag("immediate");
    conf.setImmediateFlushEnabled(immediate);
    conf.setOutputBufferSize(args.number("bufferBytes", immediate ? 0 : 16 << 10));
    conf.setPeriodicFlushFrequencyMilliSeconds(args.number("flushMs", immediate ? 0 : 10));
    conf.setZKSessionTimeoutSeconds(args.number("sessionSeconds", 6));
    // After each roll the writer deletes what is older: whole hours, nothing where it is 0.
    conf.setRetentionPeriodHours(args.number("retentionHours", 0));
    conf.setExplicitTruncationByApplication(args.flag("explicitTruncation"));
    return conf;
  }

  /** Takes the stream's lock, recovers what another writer left open, and goes on in a new segment. */
  ObjectNode open(Args args) throws Exception {
    Namespace namespace = streams.namespace(args, configuration(args));
    try {
      DistributedLogManager log = namespace.openLog(args.text("stream"));
      AsyncLogWriter writer = Streams.await(log.openAsyncLogWriter());
      ObjectNode result = Main.JSON.createObjectNode().put("lastTxid", Long.toString(writer.getLastTxId()));
      return result.put("handle", handles.keep("writer", new Open(namespace, log, writer)));
    } catch (Exception e) {
      Streams.closeSoon(namespace);
      throw e;
    }
  }

  /**
   * Writes records whose payloads follow from their numbers, `set` many in a record set each if it is given; resolves
   * when all are acknowledged.
   */
  ObjectNode write(Args args) throws Exception {
    AsyncLogWriter writer = handles.get(args, Open.class).writer();
    int count = args.number("count", 1), size = args.number("size", 100), set = args.number("set", 0);
    long first = args.id("first", 0), txid = args.id("txid", 1000), step = args.id("step", 10);
    String kind = args.text("payload", "text");
    CompressionCodec.Type codec = CompressionCodec.Type.valueOf(args.text("setCompression", "none").toUpperCase());
    boolean each = args.flag("each");
    Acknowledged acknowledged = new Acknowledged(each);
    Deque<Sent> sent = new ArrayDeque<>();
    for (int i = 0; i < count; ) {
      List<byte[]> payloads = new ArrayList<>();
      long at = txid + step * i;
      do {
        payloads.add(Payloads.make(kind, first + i++, size));
      } while (payloads.size() < set && i < count);
      LogRecord record = set == 0 ? new LogRecord(at, payloads.get(0)) : set(at, payloads, codec);
      sent.add(new Sent(at, payloads, writer.write(record)));
      if (sent.size() >= OUTSTANDING) acknowledged.add(sent.poll());
    }
    while (!sent.isEmpty()) acknowledged.add(sent.poll());
    return acknowledged.result();
  }

  private static LogRecord set(long txid, List<byte[]> payloads, CompressionCodec.Type codec) throws Exception {
    LogRecordSet.Writer set = LogRecordSet.newWriter(16 << 10, codec);
    for (byte[] payload : payloads) set.writeRecord(ByteBuffer.wrap(payload), new CompletableFuture<>());
    LogRecord record = new LogRecord(txid, set.getBuffer());
    record.setRecordSet();
    return record;
  }

  private record Sent(long txid, List<byte[]> payloads, CompletableFuture<DLSN> dlsn) {}

  private static final class Acknowledged {
    private final Payloads written = new Payloads();
    private final ArrayNode records;
    private DLSN first;
    private DLSN last;

    Acknowledged(boolean each) {
      records = each ? Main.JSON.createArrayNode() : null;
    }

    /** The records of a set take one slot each, from the one that the set was given. */
    void add(Sent sent) throws Exception {
      DLSN at = Streams.await(sent.dlsn());
      for (int i = 0; i < sent.payloads().size(); i++) {
        last = new DLSN(at.getLogSegmentSequenceNo(), at.getEntryId(), at.getSlotId() + i);
        if (first == null) first = last;
        long segment = last.getLogSegmentSequenceNo(), entry = last.getEntryId(), slot = last.getSlotId();
        written.add(sent.payloads().get(i), segment, entry, slot, sent.txid());
        if (records != null) records.addObject().put("dlsn", Streams.text(last)).put("txid", Long.toString(sent.txid()));
      }
    }

    ObjectNode result() {
      ObjectNode node = Main.JSON.createObjectNode().put("count", written.count).put("bytes", written.bytes);
      node.put("first", first == null ? null : Streams.text(first)).put("last", last == null ? null : Streams.text(last));
      if (records != null) node.set("records", records);
      return node.put("digest", written.hex());
    }
  }

  ObjectNode truncate(Args args) throws Exception {
    AsyncLogWriter writer = handles.get(args, Open.class).writer();
    boolean done = Streams.await(writer.truncate(Streams.dlsn(args.text("dlsn"))));
    return Main.JSON.createObjectNode().put("truncated", done);
  }

  ObjectNode end(Args args) throws Exception {
    AsyncLogWriter writer = handles.get(args, Open.class).writer();
    return Main.JSON.createObjectNode().put("lastTxid", Long.toString(Streams.await(writer.markEndOfStream())));
  }

  /** Completes the segment and gives the lock back; with `abort` the segment stays open. */
  ObjectNode close(Args args) throws Exception {
    Open open = handles.take(args, Open.class);
    if (args.flag("abort")) Streams.await(open.writer().asyncAbort());
    else Streams.await(open.writer().asyncClose());
    open.log().close();
    Streams.closeSoon(open.namespace());
    return Main.JSON.createObjectNode();
  }
}
