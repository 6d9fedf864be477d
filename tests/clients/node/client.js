// The gRPC of JavaScript, unmodified, against a yard: node client.js ADDRESS PROTOS MODEL SLOW
// Prints what each case saw as JSON: { case: result }.

import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const [address, protos, model, slow] = process.argv.slice(2);
const definition = loader.loadSync("inference/open_inference.proto", {
  includeDirs: [protos], keepCase: true, longs: Number, bytes: Buffer, arrays: true,
});
const Service = grpc.loadPackageDefinition(definition).inference.GRPCInferenceService;
const LARGE = { "grpc.max_receive_message_length": -1, "grpc.max_send_message_length": -1 };
const client = new Service(address, grpc.credentials.createInsecure(), LARGE);
const gzip = new Service(address, grpc.credentials.createInsecure(), {
  ...LARGE, "grpc.default_compression_algorithm": grpc.compressionAlgorithms.gzip,
});

const ask = (name, rows = 1, id = "") => ({
  model_name: name, id,
  inputs: [{ name: "x", datatype: "FP32", shape: [rows, 4] }],
  raw_input_contents: [Buffer.from(new Float32Array(rows * 4).fill(1).buffer)],
});
const soon = (milliseconds) => ({ deadline: Date.now() + milliseconds });

// One unary call: what came, in the order of its coming.
function unary(stub, method, request, { metadata, options = soon(20000), during } = {}) {
  return new Promise((resolve) => {
    const seen = { trailers: {} };
    const call = stub[method](request, metadata ?? new grpc.Metadata(), options, (error, value) => {
      seen.code = error ? error.code : 0;
      seen.message = error ? error.details : "";
      seen.details = error ? error.metadata.get("grpc-status-details-bin").length : 0;
      if (value) seen.value = value;
    });
    call.on("metadata", (received) => { seen.headers = received.getMap(); });
    call.on("status", (status) => {
      seen.trailers = status.metadata.getMap();
      setImmediate(() => resolve(seen)); // Once the callback was called.
    });
    if (during) during(call);
  });
}

// One stream: the ids that came, and how it ended.
function stream(requests, { during, options = soon(20000) } = {}) {
  return new Promise((resolve) => {
    const seen = { ids: [], errors: [] };
    const call = client.ModelStreamInfer(new grpc.Metadata(), options);
    call.on("data", (answer) => {
      if (answer.error_message) seen.errors.push(answer.error_message);
      seen.ids.push(answer.infer_response.id);
      if (during) during(call, seen);
    });
    call.on("error", () => {}); // The status tells.
    call.on("status", (status) => { seen.code = status.code; resolve(seen); });
    for (const request of requests) call.write(request);
    if (!during) call.end();
  });
}

const first = (value) => value.raw_output_contents[0].readFloatLE(0);

// What a case tells: the failure that nobody expected, or what it picks.
const told = ({ code, message, ...seen }, pick) => (code ? { code, message } : { code, ...pick(seen) });
const size = ({ value }) => ({ bytes: value.raw_output_contents[0].length });

const cases = {
  async empty() {
    return told(await unary(client, "ServerLive", {}), ({ value }) => ({ live: value.live }));
  },
  async infer() {
    return told(await unary(client, "ModelInfer", ask(model, 1, "a")), (seen) => ({
      id: seen.value.id, y: first(seen.value), told: { ...seen.headers, ...seen.trailers },
    }));
  },
  async large() {
    return told(await unary(client, "ModelInfer", ask(model, 1 << 20)), size);
  },
  async compressed() {
    return told(await unary(gzip, "ModelInfer", ask(model, 1 << 12)), size);
  },
  async metadata() {
    const metadata = new grpc.Metadata();
    metadata.set("modelyard-request-id", "from-node");
    metadata.set("x-bytes-bin", Buffer.from([0, 255, 10]));
    return told(await unary(client, "ModelInfer", ask(model), { metadata }), (seen) => ({
      id: { ...seen.headers, ...seen.trailers }["modelyard-request-id"],
    }));
  },
  async status() {
    const { code, message, details } = await unary(client, "ModelInfer", ask("none-such"));
    return { code, message, details };
  },
  async deadline() {
    return { code: (await unary(client, "ModelInfer", ask(slow), { options: soon(100) })).code };
  },
  async cancelled() {
    const during = (call) => setTimeout(() => call.cancel(), 100);
    return { code: (await unary(client, "ModelInfer", ask(slow), { during })).code };
  },
  async stream() {
    return stream([...Array(20).keys()].map((n) => ask(model, 1, `s-${n}`)));
  },
  async "stream with an error"() {
    return stream([ask(model, 1, "s-0"), ask("none-such", 1, "s-1"), ask(model, 1, "s-2")]);
  },
  async "stream cancelled after its first answer"() {
    return stream([ask(model, 1, "s-0")], { during: (call) => call.cancel() });
  },
};

const found = {};
for (const [name, run] of Object.entries(cases)) found[name] = await run();
console.log(JSON.stringify(found));
process.exit(0);
