import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;

/** Payloads that follow from a number, and digests over what was written or read. test/helpers/payloads.ts does the same. */
final class Payloads {
  private final MessageDigest sha256 = sha256();
  long count;
  long bytes;

  /** `text`: a short line with the number, repeated, which compresses well. `random`: bytes that do not. */
  static byte[] make(String kind, long number, int size) {
    byte[] payload = new byte[size];
    switch (kind) {
      case "text" -> {
        byte[] line = ("number " + number + " of many; ").getBytes(StandardCharsets.US_ASCII);
        for (int i = 0; i < size; i++) payload[i] = line[i % line.length];
      }
      case "random" -> {
        int state = (int) number;
        for (int i = 0; i < size; i++) {
          state = state * 1664525 + 1013904223;
          payload[i] = (byte) (state >>> 24);
        }
      }
      default -> throw new IllegalArgumentException("payload must be text or random, not " + kind);
    }
    return payload;
  }

  /** Numbers that say where a payload was, then its length and itself, all big-endian. */
  void add(byte[] payload, long... place) {
    ByteBuffer head = ByteBuffer.allocate(8 * place.length + 4);
    for (long number : place) head.putLong(number);
    sha256.update(head.putInt(payload.length).array());
    sha256.update(payload);
    count++;
    bytes += payload.length;
  }

  /** Closes the digest. */
  String hex() {
    return HexFormat.of().formatHex(sha256.digest());
  }

  private static MessageDigest sha256() {
    try {
      return MessageDigest.getInstance("SHA-256");
    } catch (NoSuchAlgorithmException e) {
      throw new IllegalStateException(e);
    }
  }
}
