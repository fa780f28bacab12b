/**
 * What a FUSE request costs over each transport the kernel has, with nothing behind it (transport.cc): whether another
 * transport than the device would make the daemon faster.
 *
 *   npm run bench:transport -- [SECONDS]
 *
 * Needs root and a C++ compiler. FUSE over io_uring is off by default: echo Y >/sys/module/fuse/parameters/enable_uring
 */
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const source = 'test/bench/transport.cc'
const place = mkdtempSync(join(tmpdir(), 'lamina-transport-'))
try {
  const program = join(place, 'transport')
  const mountpoint = join(place, 'mnt')
  mkdirSync(mountpoint)
  const compiler = process.env['CXX'] ?? 'c++'
  execFileSync(compiler, ['-std=c++17', '-O2', '-o', program, source, '-lpthread'], { stdio: 'inherit' })
  // In a mount namespace of its own, so that nothing is left mounted if it is ended.
  const argv = ['--mount', '--propagation', 'private', program, mountpoint, process.argv[2] ?? '2']
  process.exitCode = spawnSync('unshare', argv, { stdio: 'inherit' }).status ?? 1
} finally {
  rmSync(place, { recursive: true, force: true })
}
