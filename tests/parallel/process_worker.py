"""One process of the tests in test_processes.py: joins, does what its mode says, prints JSON."""

import json
import os
import signal
import sys
import time

from scaling.parallel.processes import Place, join


def main() -> int:
    mode, coordinator, size, process_id, facts = sys.argv[1:6]
    if coordinator == "auto":
        place = Place("auto", 0, -1)
    else:
        place = Place(coordinator, int(size), int(process_id))
    with join(place, json.loads(facts), lambda a, b: f"{a!r} and {b!r}") as processes:
        import jax
        import jax.numpy as jnp
        from jax.sharding import NamedSharding
        from jax.sharding import PartitionSpec as P

        from scaling.experiment import MeshConfig
        from scaling.parallel import batch_sharding, make_mesh, put_batch

        mesh = make_mesh(MeshConfig())
        spec = {"x": jax.ShapeDtypeStruct((2 * mesh.size, 3), "float32")}
        fetched = []

        def fetch(start: int, stop: int) -> dict:
            import numpy as np

            fetched.append((start, stop))
            return {"x": np.arange(start * 3, stop * 3, dtype=np.float32).reshape(-1, 3)}

        total = jax.jit(
            lambda x: jnp.sum(x * x),
            out_shardings=NamedSharding(mesh, P()),
            in_shardings=batch_sharding(mesh),
        )
        value = float(total(put_batch(fetch, spec, mesh)["x"]))
        told = []
        signal.signal(signal.SIGTERM, lambda *_: told.append(True))
        print("ready", flush=True)
        for step in range(100_000):
            if processes.stop_at(step, bool(told)):
                print(json.dumps([processes.process_id, mesh.size, value, *set(fetched), step]))
                return 0
            if mode == "raise" and processes.process_id == 1 and step == 3:
                raise OSError("no space left on the test")
            if mode == "block" and processes.process_id == 1 and step == 3:
                os.kill(os.getpid(), signal.SIGSTOP)  # until the test kills it
            value = float(total(put_batch(fetch, spec, mesh)["x"]))
            time.sleep(0.002)
    return 1


if __name__ == "__main__":
    sys.exit(main())
