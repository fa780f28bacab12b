/** One of two threads that do something at the same moment: races.test.ts starts them. */
import { parentPort, workerData } from 'node:worker_threads'
import { act } from './race-operations.js'

const { shared, side } = workerData as { shared: SharedArrayBuffer; side: number }
/** Then it sleeps: on a machine that is busy the other one may not even run. */
const LONGEST_SPIN = 2000
const gate = new Int32Array(shared)

parentPort?.on(
  'message',
  ({ name, dir, turn, delay }: { name: string; dir: string; turn: number; delay: number }) => {
    // Both wait for each other with no more sleep than need be; a short way ahead makes other interleavings.
    Atomics.store(gate, side, turn)
    Atomics.notify(gate, side)
    for (let spins = 0, there = 0; (there = Atomics.load(gate, 1 - side)) < turn; spins++)
      if (spins > LONGEST_SPIN) Atomics.wait(gate, 1 - side, there)
    for (let i = 0; i < delay; i++) Atomics.load(gate, side)
    parentPort?.postMessage(act(name, dir))
  },
)
