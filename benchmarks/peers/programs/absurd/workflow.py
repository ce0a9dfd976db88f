"""Three no-op steps, and a fan-out of tasks in a queue of their own with join."""


def register(app, items):
    @app.register_task(name="three-steps")
    def three_steps(params, ctx):  # noqa: ARG001 - the SDK gives both
        first = ctx.step("first", lambda: 1)
        second = ctx.step("second", lambda: first)
        return ctx.step("third", lambda: second)

    @items.register_task(name="item")
    def item(params, ctx):
        return ctx.step("step", lambda: params)

    @app.register_task(name="fan-out")
    def fan_out(params, ctx):
        def spawn():
            return [str(items.spawn("item", value)["task_id"]) for value in range(params)]

        tasks = ctx.step("spawn", spawn)
        return len([ctx.await_task_result(task, queue_name="items") for task in tasks])
