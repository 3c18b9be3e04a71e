import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.Collections;
import java.util.List;
import org.apache.zookeeper.CreateMode;
import org.apache.zookeeper.KeeperException;
import org.apache.zookeeper.ZooDefs;
import org.apache.zookeeper.ZooKeeper;
import org.apache.zookeeper.data.Stat;

/** The nodes of ZooKeeper, by its own client. */
final class Tree {
  private final String address;
  private ZooKeeper shared;

  Tree(String address) {
    this.address = address;
  }

  private synchronized ZooKeeper client() throws Exception {
    if (shared == null) shared = new ZooKeeper(address, 10_000, event -> {});
    return shared;
  }

  /** Every node at and below a path, parents first: path, data in base64, versions. */
  ObjectNode dump(Args args) throws Exception {
    ObjectNode result = Main.JSON.createObjectNode();
    visit(client(), args.text("path"), result.putArray("nodes"));
    return result;
  }

  private static void visit(ZooKeeper zookeeper, String path, ArrayNode nodes) throws Exception {
    Stat stat = new Stat();
    List<String> children;
    try {
      byte[] data = zookeeper.getData(path, false, stat);
      ObjectNode node = nodes.addObject().put("path", path).put("version", stat.getVersion());
      node.put("data", data == null ? new byte[0] : data).put("ephemeral", stat.getEphemeralOwner() != 0);
      node.put("czxid", Long.toString(stat.getCzxid()));
      children = zookeeper.getChildren(path, false);
    } catch (KeeperException.NoNodeException e) {
      return; // gone meanwhile
    }
    Collections.sort(children);
    for (String child : children) visit(zookeeper, path.equals("/") ? "/" + child : path + "/" + child, nodes);
  }

  /** Writes a node as an operator's hand would, whatever its version; makes it where it is not. */
  ObjectNode put(Args args) throws Exception {
    String path = args.text("path");
    byte[] data = args.bytes("text");
    if (client().exists(path, false) == null) {
      client().create(path, data, ZooDefs.Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
    } else {
      client().setData(path, data, -1);
    }
    return Main.JSON.createObjectNode();
  }

  ObjectNode delete(Args args) throws Exception {
    client().delete(args.text("path"), -1);
    return Main.JSON.createObjectNode();
  }
}
