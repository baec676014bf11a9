import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import zipkin2.codec.DependencyLinkBytesEncoder;
import zipkin2.codec.SpanBytesDecoder;
import zipkin2.internal.DependencyLinker;

/**
 * Zipkin's own linker as a filter: reads traces, each a line with a JSON list of spans, and at the end prints the links
 * between services as a JSON list. Run by cluster/linker.py.
 */
public final class DependencyLinks {

  public static void main(String[] arguments) throws IOException {
    DependencyLinker linker = new DependencyLinker();
    BufferedReader traces = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8), 1 << 20);
    for (String trace = traces.readLine(); trace != null; trace = traces.readLine()) {
      linker.putTrace(SpanBytesDecoder.JSON_V2.decodeList(trace.getBytes(StandardCharsets.UTF_8)));
    }
    System.out.write(DependencyLinkBytesEncoder.JSON_V1.encodeList(linker.link()));
    System.out.flush();
  }
}
