/** Other people's tools as the tests use them: Debian's registry on loopback, skopeo, GNU tar, a small root filesystem. */
import { execFile, execFileSync, spawn } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'

export const run = promisify(execFile)

export function sh(command: string, cwd?: string): string {
  return execFileSync('bash', ['-euo', 'pipefail', '-c', command], {
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    ...(cwd === undefined ? {} : { cwd }),
  })
}

/** Why a test cannot run here, or false. CI installs them all. */
export function missing(...programs: string[]): string | false {
  const path = (process.env['PATH'] ?? '').split(':')
  const absent = programs.filter(program => !path.some(directory => existsSync(join(directory, program))))
  if (process.geteuid?.() !== 0) return 'needs root'
  return absent.length > 0 && `needs ${absent.join(', ')} (apt-get install)`
}

/** A directory for large trees: in memory where that has attributes (tmpfs since Linux 6.6) and room, else on disk. */
export function scratch(prefix: string): string {
  const path = '/dev/shm'
  try {
    if (Number(sh(`df --output=avail -B1M ${path} | tail -1`)) > 2000) {
      const place = mkdtempSync(join(path, prefix))
      try {
        sh(`touch x && setfattr -n user.a -v b x && rm x`, place)
        return place
      } catch {
        rmSync(place, { recursive: true })
      }
    }
  } catch {
    // no such place
  }
  return mkdtempSync(join(tmpdir(), prefix))
}

export async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  await new Promise(resolve => server.close(resolve))
  return typeof address === 'object' && address !== null ? address.port : 0
}

async function reachable(port: number): Promise<boolean> {
  return new Promise(resolve => {
    const socket = connect(port, '127.0.0.1')
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', () => resolve(false))
  })
}

export interface RunningRegistry {
  /** `127.0.0.1:PORT` */
  host: string
  stop(): Promise<void>
}

/** Debian's docker-registry with its own directory below `path`; with `users` (htpasswd lines) it wants Basic auth. */
export async function startRegistry(path: string, users?: string): Promise<RunningRegistry> {
  const port = await freePort()
  mkdirSync(path, { recursive: true })
  const auth =
    users === undefined ? '' : `auth:\n  htpasswd:\n    realm: test\n    path: ${join(path, 'htpasswd')}\n`
  if (users !== undefined) writeFileSync(join(path, 'htpasswd'), users)
  writeFileSync(
    join(path, 'config.yml'),
    `version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: ${join(path, 'data')}\n  delete:\n    enabled: true\nhttp:\n  addr: 127.0.0.1:${port}\n${auth}`,
  )
  const child = spawn('docker-registry', ['serve', join(path, 'config.yml')], { stdio: 'ignore' })
  const ended = new Promise<void>(resolve => child.once('close', () => resolve()))
  while (!(await reachable(port))) {
    if (child.exitCode !== null) throw new Error(`docker-registry ended with ${child.exitCode}`)
    await new Promise(resolve => setTimeout(resolve, 20))
  }
  return {
    host: `127.0.0.1:${port}`,
    async stop() {
      child.kill('SIGTERM')
      await ended
    },
  }
}

/** A root filesystem of two layers with everything that is awkward, as an OCI layout made by umoci and GNU tar alone. */
export function makeLayout(path: string): void {
  sh(
    `
    mkdir -p root/bin root/etc root/dev root/home/user
    cp "$(command -v busybox)" root/bin/busybox
    ln root/bin/busybox root/bin/sh
    ln -s busybox root/bin/ls
    echo hello > root/etc/hello
    printf 'x%.0s' $(seq 3000) > root/etc/long
    touch root/etc/$'caf\\xe9' root/home/user/.keep
    mknod root/dev/null c 1 3
    mkfifo root/home/user/fifo
    chown -R 1000:1000 root/home/user
    chmod 4755 root/bin/busybox
    setfattr -n user.note -v 'bytes' root/etc/hello
    mkdir -p upper/etc upper/home
    echo changed > upper/etc/hello
    touch upper/etc/.wh.long upper/home/.wh..wh..opq
    mkdir upper/home/new
    umoci init --layout layout
    umoci new --image layout:v1
    tar --xattrs --xattrs-include='*' --acls --sort=name -C root -cf one.tar .
    tar --sort=name -C upper -cf two.tar .
    umoci raw add-layer --image layout:v1 one.tar
    umoci raw add-layer --image layout:v1 two.tar
    umoci config --image layout:v1 --config.cmd /bin/sh --config.env A=1
    `,
    path,
  )
}
