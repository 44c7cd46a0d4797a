"""The training of the matrix whose last bits are looked at: deterministic, elastic, resumable."""

# Twenty-four steps of Adam with random batches, the generator in the state; prints a hash of the
# variables. With a folder as its argument it saves every fourth step there, and goes on from what
# it finds. DISTGRAD_KILL_AT=rank:n kills that rank at its n-th call to the file system.
DETERMINISTIC = """
world = dist.init(timeout=40)
data = np.random.default_rng(0)
images = data.normal(size=(157, 9)).astype(np.float32)
labels = data.integers(0, 4, 157)
hidden = dg.Variable(data.normal(size=(9, 16)).astype(np.float32) / 3, name="hidden")
output = dg.Variable(data.normal(size=(16, 4)).astype(np.float32) / 4, name="output")
model = [hidden, output]
dist.broadcast_variables(model)
optimizer = dg.optimizers.Optimizer(dg.optimizers.Adam(0.01))
optimizer.build(model)
draws = dg.random.Generator(6)
state = {"model": model, "optimizer": optimizer, "draws": draws}
folder = sys.argv[1] if len(sys.argv) > 1 else None
first, manager = 0, None
if folder:
    if dg.checkpoint.latest(folder) is not None:
        first = dg.checkpoint.load(folder, state).step
    say(f"rank {world.rank} begins at step {first}")
    victim, _, moment = os.environ.get("DISTGRAD_KILL_AT", "-1:0").partition(":")
    calls = 0
    def counted(call):
        def wrapper(*arguments, **options):
            global calls
            calls += 1
            if world.rank == int(victim) and calls == int(moment):
                os.write(2, f"FAULT {time.time():.3f} killed while it saves\\n".encode())
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)
        return wrapper
    for name in "open mkdir write fsync rename unlink".split():
        setattr(os, name, counted(getattr(os, name)))
    manager = dg.checkpoint.Manager(folder, keep=2)

def train(step):
    batch = draws.permutation(157).numpy()[:23]
    accumulator = dist.GradientAccumulator(model, deterministic=True)
    for part in dist.logical_shards(batch):
        with dg.GradientTape() as tape:
            logits = dg.tanh(images[part] @ hidden) @ output
            loss = dg.mean(dg.softmax_cross_entropy(labels=labels[part], logits=logits))
        accumulator.add(tape.gradient(loss, model))
    optimizer.apply(accumulator.gradients(), model)
    if manager is not None and (step + 1) % 4 == 0:
        manager.save(state, step=step + 1)
        manager.wait()

if os.environ.get("OMPI_MCA_mpi_ft_enable") == "1":
    dist.ElasticJob(state, commit_every=2, step=first).run(train, 24)
else:
    for step in range(first, 24):
        train(step)
if manager is not None:
    manager.close()
digest = hashlib.sha256(b"".join(v.numpy().tobytes() for v in model)).hexdigest()[:16]
say(f"rank {dist.world().rank} of {dist.world().size}: hash {digest}")
"""
