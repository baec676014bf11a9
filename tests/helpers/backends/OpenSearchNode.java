import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.opensearch.common.settings.Settings;
import org.opensearch.env.Environment;
import org.opensearch.node.InternalSettingsPreparer;
import org.opensearch.node.Node;
import org.opensearch.transport.Netty4Plugin;

/** A single OpenSearch node on loopback, for tests: {@code OpenSearchNode HOME HTTP_PORT TRANSPORT_PORT}. */
public final class OpenSearchNode extends Node {

  private OpenSearchNode(Environment environment) {
    // The server's own launcher looks for HTTP among installed plugins; here it is on the class path.
    super(environment, List.of(Netty4Plugin.class), false);
  }

  public static void main(String[] arguments) throws Exception {
    Settings settings = Settings.builder()
        .put("path.home", arguments[0])
        .put("network.host", "127.0.0.1")
        .put("http.port", arguments[1])
        .put("transport.port", arguments[2])
        .put("discovery.type", "single-node")
        .put("cluster.name", "tests")
        .put("node.name", "node")
        .build();
    Environment environment = InternalSettingsPreparer.prepareEnvironment(
        settings, Map.of(), Path.of(arguments[0], "config"), () -> "node");
    Node node = new OpenSearchNode(environment);
    Runtime.getRuntime().addShutdownHook(new Thread(() -> {
      try {
        node.close();
      } catch (Exception failure) {
        failure.printStackTrace();
      }
    }));
    node.start();
    Thread.currentThread().join();
  }
}
