import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.net.URI;
import java.util.HashMap;
import java.util.Iterator;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import org.apache.distributedlog.DLSN;
import org.apache.distributedlog.DistributedLogConfiguration;
import org.apache.distributedlog.LogSegmentMetadata;
import org.apache.distributedlog.api.DistributedLogManager;
import org.apache.distributedlog.api.namespace.Namespace;
import org.apache.distributedlog.api.namespace.NamespaceBuilder;
import org.apache.distributedlog.exceptions.LogEmptyException;
import org.apache.distributedlog.impl.metadata.BKDLConfig;
import org.apache.distributedlog.metadata.DLMetadata;

/** Namespaces and streams, by DistributedLog's own client. */
final class Streams {
  static final int PATIENCE_SECONDS = 30;

  private final String zookeeper;
  private final String ledgersPath;
  private final Map<String, Namespace> namespaces = new HashMap<>();

  Streams(String zookeeper, String ledgersPath) {
    this.zookeeper = zookeeper;
    this.ledgersPath = ledgersPath;
  }

  private URI uri(Args args) {
    return URI.create("distributedlog-bk://" + zookeeper + args.text("namespace"));
  }

  static <T> T await(CompletableFuture<T> future) throws Exception {
    return future.get(PATIENCE_SECONDS, TimeUnit.SECONDS);
  }

  static DLSN dlsn(String text) {
    String[] parts = text.split(":");
    return new DLSN(Long.parseLong(parts[0]), Long.parseLong(parts[1]), Long.parseLong(parts[2]));
  }

  static String text(DLSN dlsn) {
    return dlsn.getLogSegmentSequenceNo() + ":" + dlsn.getEntryId() + ":" + dlsn.getSlotId();
  }

  /** What readers, and writers before they say more, are set up with. */
  static DistributedLogConfiguration configuration() {
    DistributedLogConfiguration conf = new DistributedLogConfiguration();
    conf.setBKDigestPW("");
    conf.setZKSessionTimeoutSeconds(6);
    conf.setBKClientZKSessionTimeout(6);
    conf.setBKClientNumberIOThreads(1);
    conf.setNumWorkerThreads(2);
    // Rolls of all streams of a namespace would wait for one another, a minute each.
    conf.setLogSegmentRollingConcurrency(-1);
    conf.setLogSegmentRollingIntervalMinutes(0);
    conf.setRetentionPeriodHours(0);
    return conf;
  }

  /** A namespace with sessions of its own. */
  Namespace namespace(Args args, DistributedLogConfiguration conf) throws Exception {
    String client = args.text("clientId", "java");
    return NamespaceBuilder.newBuilder().conf(conf).uri(uri(args)).clientId(client).build();
  }

  /** The one that all share who neither write nor ask for anything special: closing one takes seconds. */
  private synchronized Namespace shared(Args args) throws Exception {
    String path = args.text("namespace");
    if (!namespaces.containsKey(path)) namespaces.put(path, namespace(args, configuration()));
    return namespaces.get(path);
  }

  static void closeSoon(Namespace namespace) {
    Thread closing = new Thread(namespace::close, "closing");
    closing.setDaemon(true);
    closing.start();
  }

  ObjectNode bind(Args args) throws Exception {
    DLMetadata.create(new BKDLConfig(zookeeper, ledgersPath)).create(uri(args));
    return Main.JSON.createObjectNode();
  }

  ObjectNode list(Args args) throws Exception {
    ObjectNode result = Main.JSON.createObjectNode();
    ArrayNode names = result.putArray("streams");
    for (Iterator<String> logs = shared(args).getLogs(); logs.hasNext(); ) names.add(logs.next());
    return result;
  }

  ObjectNode create(Args args) throws Exception {
    shared(args).createLog(args.text("stream"));
    return Main.JSON.createObjectNode();
  }

  ObjectNode delete(Args args) throws Exception {
    shared(args).deleteLog(args.text("stream"));
    return Main.JSON.createObjectNode();
  }

  ObjectNode info(Args args) throws Exception {
    ObjectNode result = Main.JSON.createObjectNode();
    DistributedLogManager log = shared(args).openLog(args.text("stream"));
    try {
      result.put("first", text(await(log.getFirstDLSNAsync()))).put("last", text(log.getLastDLSN()));
      result.put("lastTxid", Long.toString(log.getLastTxId())).put("records", log.getLogRecordCount());
    } catch (LogEmptyException e) {
      result.putNull("first").putNull("last").putNull("lastTxid").put("records", 0);
    }
    result.put("ended", log.isEndOfStreamMarked());
    ArrayNode segments = result.putArray("segments");
    for (LogSegmentMetadata segment : log.getLogSegments()) describe(segment, segments.addObject());
    log.close();
    return result;
  }

  private static void describe(LogSegmentMetadata segment, ObjectNode node) {
    node.put("name", segment.getZNodeName()).put("segment", Long.toString(segment.getLogSegmentSequenceNumber()));
    node.put("ledger", Long.toString(segment.getLogSegmentId())).put("open", segment.isInProgress());
    node.put("truncated", segment.isTruncated() ? "whole" : segment.isPartiallyTruncated() ? "partly" : "no");
    node.put("version", segment.getVersion()).put("records", segment.getRecordCount());
    node.put("firstTxid", Long.toString(segment.getFirstTxId())).put("lastTxid", Long.toString(segment.getLastTxId()));
    node.put("last", segment.isInProgress() ? null : text(segment.getLastDLSN()));
    node.put("minActive", text(segment.getMinActiveDLSN())).put("startSequenceId", Long.toString(segment.getStartSequenceId()));
  }
}
