import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { SysError } from '../../../src/base/sys-error.js'
import { JournalLog } from '../../../src/daemon/recovery/journal-log.js'
import { AT } from '../../../src/daemon/recovery/memory.js'
import { frame } from '../../unit/fuse-frames.js'
import { Succession } from '../../unit/recovery-fixture.js'
import { isFault, type Target } from './target.js'

const PAGE = 4096
const ROOT = { uid: 0, gid: 0, pid: 1 }

/** The recovery state: first its page, then its journal. It is taken over, or refused as damaged. */
export function state(): Target {
  const it = new Succession(true)
  for (const name of ['f', 'g', 'h']) writeFileSync(join(it.root, 'lower', name), name)
  const seeds = [snapshot(it)]
  for (const [i, name] of ['f', 'g', 'h'].entries()) {
    it.begin(frame('LOOKUP', { unique: BigInt(2 + i * 2), nodeid: 1, names: [name] }))
    it.overlay.lookup(1, name)
  }
  it.begin(frame('MKDIR', { unique: 20n, nodeid: 1, names: ['d'] }))
  const dir = it.overlay.mkdir(1, 'd', 0o755, 0, ROOT).nodeid
  it.begin(frame('CREATE', { unique: 22n, nodeid: dir, names: ['new'] }))
  const made = it.overlay.create(dir, 'new', 2, 0o644, 0, ROOT).entry.nodeid
  it.begin(frame('LINK', { unique: 24n, nodeid: 1, fields: { oldnodeid: made }, names: ['link'] }))
  it.overlay.link(made, 1, 'link')
  seeds.push(snapshot(it))
  it.begin(frame('RENAME', { unique: 26n, nodeid: 1, fields: { newdir: dir }, names: ['link', 'moved'] }))
  it.overlay.rename(1, 'link', dir, 'moved', 0)
  seeds.push(snapshot(it))
  it.begin(frame('UNLINK', { unique: 28n, nodeid: 1, names: ['g'] }))
  it.overlay.unlink(1, 'g')
  seeds.push(snapshot(it))
  return {
    seeds,
    covers: [
      '/src/daemon/recovery/',
      '/src/overlay/recover',
      '/src/overlay/inode',
      '/src/fuse/request-journal',
    ],
    run(input) {
      restore(it, input)
      try {
        it.takeOver()
        for (const name of ['f', 'd', 'g']) it.overlay.lookup(1, name)
        while (it.overlay.recallSome(10));
        it.journal.rewrite()
      } catch (error) {
        if (!(error instanceof SysError) && isFault(error)) throw error
      } finally {
        it.bury()
      }
    },
    close: () => it[Symbol.dispose](),
  }
}

function snapshot({ memory }: Succession): Buffer {
  const journal = memory.half(memory.u32(AT.half) & 1)
  const tail = memory.u32(AT.tails + (memory.u32(AT.half) & 1) * 4)
  return Buffer.concat([memory.bytes.subarray(0, PAGE), memory.bytes.subarray(journal, journal + tail)])
}

function restore({ memory }: Succession, input: Buffer): void {
  memory.bytes.fill(0, 0, PAGE)
  input.copy(memory.bytes, 0, 0, PAGE)
  for (const half of [0, 1]) {
    memory.bytes.fill(0, memory.half(half), memory.half(half) + 65_536)
    input.subarray(PAGE).copy(memory.bytes, memory.half(half))
  }
  // Sums that are right, or nothing behind them would be reached; a damaged sum is found by the unit tests.
  if ((input.length & 3) !== 0) new JournalLog(memory).seal()
}
