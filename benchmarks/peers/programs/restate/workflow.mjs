// Three no-op steps, and a fan-out of service calls with join.
import * as restate from "@restatedev/restate-sdk";

export const items = restate.service({
  name: "items",
  handlers: { step: async (ctx, value) => ctx.run("step", () => value) },
});

export const peers = restate.service({
  name: "peers",
  handlers: {
    threeSteps: async (ctx) => {
      const first = await ctx.run("first", () => 1);
      const second = await ctx.run("second", () => first);
      return await ctx.run("third", () => second);
    },
    fanOut: async (ctx, n) => {
      const calls = Array.from({ length: n }, (_, value) => ctx.serviceClient(items).step(value));
      return (await restate.RestatePromise.all(calls)).length;
    },
  },
});
