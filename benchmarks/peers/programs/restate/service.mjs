// The process that runs the handlers. The SDK uses `Promise.withResolvers`, which node 20 does not have.
Promise.withResolvers ??= function () {
  let resolve, reject;
  const promise = new this((yes, no) => ([resolve, reject] = [yes, no]));
  return { promise, resolve, reject };
};
const restate = await import("@restatedev/restate-sdk");
const { items, peers } = await import("./workflow.mjs");

await restate.serve({ services: [peers, items], port: Number(process.argv[2]) });
