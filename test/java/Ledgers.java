import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.Enumeration;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.Map;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.bookkeeper.client.BKException;
import org.apache.bookkeeper.client.BookKeeper;
import org.apache.bookkeeper.client.LedgerEntry;
import org.apache.bookkeeper.client.LedgerHandle;
import org.apache.bookkeeper.client.api.LastConfirmedAndEntry;
import org.apache.bookkeeper.client.api.LedgerMetadata;
import org.apache.bookkeeper.conf.ClientConfiguration;

/** Ledgers, by BookKeeper's own client. */
final class Ledgers {
  private static final int BATCH = 100;
  private static final int OUTSTANDING = 500;

  private final String uri;
  private final Handles handles;
  private BookKeeper shared;

  Ledgers(String zookeeper, String path, Handles handles) {
    this.uri = "zk+hierarchical://" + zookeeper + path;
    this.handles = handles;
  }

  synchronized BookKeeper client() throws Exception {
    if (shared == null) {
      ClientConfiguration conf = new ClientConfiguration();
      conf.setMetadataServiceUri(uri);
      conf.setZkTimeout(10_000);
      conf.setNumIOThreads(2);
      conf.setNumWorkerThreads(2);
      conf.setReadEntryTimeout(3);
      // Readers learn the end of what was added together, also when nothing is added after it.
      conf.setExplictLacInterval(50);
      conf.setAddEntryTimeout(3);
      // By itself it would add no more than 5,000 entries a second.
      conf.setThrottleValue(0);
      shared = new BookKeeper(conf);
    }
    return shared;
  }

  private static BookKeeper.DigestType digest(Args args) {
    return BookKeeper.DigestType.fromApiDigestType(
        org.apache.bookkeeper.client.api.DigestType.valueOf(args.text("digest", "CRC32C")));
  }

  ObjectNode create(Args args) throws Exception {
    Map<String, byte[]> custom = new HashMap<>();
    if (args.has("custom")) {
      args.node("custom").fields().forEachRemaining(field -> custom.put(field.getKey(), field.getValue().asText().getBytes()));
    }
    LedgerHandle ledger = client().createLedger(args.number("ensemble", 3), args.number("writeQuorum", 3),
        args.number("ackQuorum", 2), digest(args), args.bytes("password"), custom);
    return described(ledger).put("handle", handles.keep("ledger", ledger));
  }

  /** `recover` fences, recovers and closes what was left open. */
  ObjectNode open(Args args) throws Exception {
    long id = args.id("ledger");
    byte[] password = args.bytes("password");
    LedgerHandle ledger = args.flag("recover")
        ? client().openLedger(id, digest(args), password)
        : client().openLedgerNoRecovery(id, digest(args), password);
    return described(ledger).put("handle", handles.keep("ledger", ledger));
  }

  private static ObjectNode described(LedgerHandle ledger) {
    ObjectNode node = Main.JSON.createObjectNode();
    node.put("ledger", Long.toString(ledger.getId())).put("lac", Long.toString(ledger.getLastAddConfirmed()));
    return node.put("length", Long.toString(ledger.getLength())).put("closed", ledger.isClosed());
  }

  /** Adds entries many at a time, and resolves when all of them are confirmed; fails with the first that failed. */
  ObjectNode add(Args args) throws Exception {
    LedgerHandle ledger = handles.get(args, LedgerHandle.class);
    JsonNode given = args.node("payloads");
    int count = given != null ? given.size() : args.number("count", 1), size = args.number("size", 100);
    long first = args.id("first", 0);
    String kind = args.text("payload", "text");
    Payloads written = new Payloads();
    Semaphore room = new Semaphore(OUTSTANDING);
    AtomicInteger failed = new AtomicInteger();
    for (int i = 0; i < count && failed.get() == 0; i++) {
      room.acquire();
      byte[] payload = given != null ? given.get(i).binaryValue() : Payloads.make(kind, first + i, size);
      ledger.asyncAddEntry(payload, (rc, handle, entry, context) -> {
        if (rc != BKException.Code.OK) failed.compareAndSet(0, rc);
        room.release();
      }, null);
      written.add(payload, ledger.getLastAddPushed());
    }
    if (!room.tryAcquire(OUTSTANDING, 30, TimeUnit.SECONDS)) throw new IllegalStateException("adds were not answered");
    if (failed.get() != 0) throw BKException.create(failed.get());
    ObjectNode node = described(ledger).put("digest", written.hex()).put("bytes", written.bytes);
    return node.put("count", written.count);
  }

  ObjectNode read(Args args) throws Exception {
    LedgerHandle ledger = handles.get(args, LedgerHandle.class);
    long first = args.id("first", 0), last = args.id("last", ledger.getLastAddConfirmed());
    boolean unconfirmed = args.flag("unconfirmed");
    ArrayNode payloads = args.flag("each") ? Main.JSON.createArrayNode() : null;
    Payloads read = new Payloads();
    for (long from = first; from <= last; from += BATCH) {
      long to = Math.min(last, from + BATCH - 1);
      Enumeration<LedgerEntry> entries = unconfirmed ? ledger.readUnconfirmedEntries(from, to) : ledger.readEntries(from, to);
      while (entries.hasMoreElements()) {
        LedgerEntry entry = entries.nextElement();
        byte[] payload = entry.getEntry();
        read.add(payload, entry.getEntryId());
        if (payloads != null) payloads.add(payload);
      }
    }
    ObjectNode result = described(ledger).put("digest", read.hex()).put("bytes", read.bytes).put("count", read.count);
    if (payloads != null) result.set("payloads", payloads);
    return result;
  }

  /** Reads a ledger that somebody writes by long polls with the entry in the answer, as DistributedLog's readers do. */
  ObjectNode follow(Args args) throws Exception {
    LedgerHandle ledger = handles.get(args, LedgerHandle.class);
    int count = args.number("count", 1);
    long next = args.id("first", 0);
    long end = System.currentTimeMillis() + args.number("timeoutMs", 20_000);
    Payloads read = new Payloads();
    while (read.count < count && System.currentTimeMillis() < end && !(ledger.isClosed() && ledger.getLastAddConfirmed() < next)) {
      try (LastConfirmedAndEntry found = ledger.readLastAddConfirmedAndEntryAsync(next, 500, true).get()) {
        if (!found.hasEntry()) continue;
        read.add(found.getEntry().getEntryBytes(), found.getEntry().getEntryId());
        next++;
      }
    }
    return described(ledger).put("digest", read.hex()).put("bytes", read.bytes).put("count", read.count);
  }

  ObjectNode close(Args args) throws Exception {
    LedgerHandle ledger = handles.take(args, LedgerHandle.class);
    ledger.close();
    return described(ledger);
  }

  ObjectNode delete(Args args) throws Exception {
    client().deleteLedger(args.id("ledger"));
    return Main.JSON.createObjectNode();
  }

  /** What Java understands of a ledger's node. */
  ObjectNode metadata(Args args) throws Exception {
    LedgerMetadata found = client().getLedgerMetadata(args.id("ledger")).get();
    ObjectNode node = Main.JSON.createObjectNode().put("state", found.getState().name());
    node.put("ensemble", found.getEnsembleSize()).put("writeQuorum", found.getWriteQuorumSize());
    node.put("ackQuorum", found.getAckQuorumSize()).put("digest", found.getDigestType().name());
    node.put("lastEntry", Long.toString(found.getLastEntryId())).put("length", Long.toString(found.getLength()));
    node.put("formatVersion", found.getMetadataFormatVersion()).put("cToken", Long.toString(found.getCToken()));
    node.put("password", found.hasPassword() ? HexFormat.of().formatHex(found.getPassword()) : null);
    ObjectNode custom = node.putObject("custom");
    found.getCustomMetadata().forEach((name, value) -> custom.put(name, HexFormat.of().formatHex(value)));
    ArrayNode ensembles = node.putArray("ensembles");
    found.getAllEnsembles().forEach((first, members) -> {
      ArrayNode ids = ensembles.addObject().put("firstEntry", Long.toString(first)).putArray("members");
      members.forEach(member -> ids.add(member.getId()));
    });
    return node;
  }
}
