// A filter of Envoy, made with the SDK of Solo: it turns `/deny` away and marks what else it sees.
export * from "@solo-io/proxy-runtime/proxy";
import { RootContext, Context, registerRootContext, FilterHeadersStatusValues, stream_context, send_local_response, GrpcStatusValues } from "@solo-io/proxy-runtime";

class Root extends RootContext {
  createContext(context_id: u32): Context { return new Guest(context_id, this); }
}
class Guest extends Context {
  constructor(context_id: u32, root: Root) { super(context_id, root); }
  onRequestHeaders(a: u32, end: bool): FilterHeadersStatusValues {
    if (stream_context.headers.request.get(":path") == "/deny") {
      send_local_response(403, "denied", String.UTF8.encode("no entry"), [], GrpcStatusValues.Internal);
      return FilterHeadersStatusValues.StopIteration;
    }
    stream_context.headers.request.add("x-out", stream_context.headers.request.get(":method"));
    return FilterHeadersStatusValues.Continue;
  }
  onResponseHeaders(a: u32, end: bool): FilterHeadersStatusValues {
    stream_context.headers.response.add("x-back", "seen");
    return FilterHeadersStatusValues.Continue;
  }
}
registerRootContext((context_id: u32) => { return new Root(context_id); }, "");
