/**
 * How long a request waits when the daemon is killed: `npm run bench:takeover -- [INODES] [KILLS]` (100,000 inodes known to the kernel, 9
 * kills). From kill(2) to the answer of a lookup that only a daemon can give, with the memory of the keeper and of the daemon.
 */
import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { Scratch } from '../mount/fixture.js'

const [inodes = 100_000, kills = 9] = process.argv.slice(2).map(Number)
const PER_DIRECTORY = 100

process.env['LAMINA_KEEPER_DEATHS'] = '0'
using scratch = new Scratch('takeover', 600)
process.env['LAMINA_RUN'] = scratch.mkdir('run')
const lower = scratch.mkdir('lower0')
for (let made = 0; made < inodes; made += PER_DIRECTORY + 1) {
  const dir = path.join(lower, `directory-${made}`)
  fs.mkdirSync(dir)
  for (let i = 0; i < Math.min(PER_DIRECTORY, inodes - made - 1); i++)
    fs.writeFileSync(path.join(dir, `file-${i}`), '')
}
const options = (process.env['LAMINA_OPTIONS'] ?? '').split(',').filter(each => each !== '')
const mount = scratch.overlay('lamina', 1, ['keeper=1', ...options])
execFileSync('ls', ['-lR', mount.mountpoint], { stdio: ['ignore', 'ignore', 'inherit'] })
const known = mount.stats().inodes

const times: number[] = []
for (let kill = 0; kill < kills; kill++) {
  const { pid } = mount
  if (pid === undefined) throw new Error('no daemon')
  const started = performance.now()
  process.kill(pid, 'SIGKILL')
  fs.existsSync(path.join(mount.mountpoint, `missing-${kill}`))
  times.push(performance.now() - started)
  // It settles: the next one is no kill of a daemon that has just started.
  await new Promise(resolve => setTimeout(resolve, 1500))
}
times.sort((a, b) => a - b)
const rss = (pid: number | undefined): string =>
  /VmRSS:\s+(\d+) kB/.exec(fs.readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? '?'
const shown = times.map(time => time.toFixed(0))
process.stdout.write(
  `${known} inodes known, ${kills} kills: median ${shown[kills >> 1]} ms, ${shown[0]} to ${shown.at(-1)} ms (${shown.join(' ')}); ` +
    `keeper ${rss(mount.keeper)} kB, daemon ${rss(mount.pid)} kB\n`,
)
