import { Worker } from 'node:worker_threads'

/**
 * A time limit that also holds while the main thread is inside a system call on a mount that does not answer: a thread
 * of its own aborts the FUSE connections below `root` and kills the daemons, so the call returns with an error.
 */

const PROGRAM = `
const { parentPort } = require('node:worker_threads')
const fs = require('node:fs')
const limits = new Map()
parentPort.on('message', ({ root, seconds }) => {
  clearTimeout(limits.get(root))
  limits.delete(root)
  if (seconds > 0) limits.set(root, setTimeout(end, seconds * 1000, root, seconds))
})
function end(root, seconds) {
  fs.writeSync(2, 'time limit of ' + seconds + ' s reached below ' + root + ': ending its mounts\\n')
  for (const line of fs.readFileSync('/proc/self/mountinfo', 'latin1').split('\\n')) {
    const fields = line.split(' ')
    if (!(fields[4] ?? '').startsWith(root + '/')) continue
    try { fs.writeFileSync('/sys/fs/fuse/connections/' + fields[2].split(':')[1] + '/abort', '1') } catch {}
  }
  for (const pid of fs.readdirSync('/proc')) {
    if (!/^[0-9]+$/.test(pid) || Number(pid) === process.pid) continue
    try {
      if (fs.readFileSync('/proc/' + pid + '/cmdline', 'latin1').includes(root + '/')) process.kill(Number(pid), 'SIGKILL')
    } catch {}
  }
}
`

let worker: Worker | undefined

/** Starts, renews, or with 0 seconds ends, the limit for everything below `root`. */
export function limit(root: string, seconds: number): void {
  if (worker === undefined) {
    worker = new Worker(PROGRAM, { eval: true })
    worker.unref()
  }
  worker.postMessage({ root, seconds })
}
