import fs from 'node:fs'
import path from 'node:path'
import { USER, type Machine, type Ran, type RunOptions } from './machine.js'

/** One store of containers/storage, with the program that mounts for it. Podman and Buildah share it. */
export class Store {
  readonly dir: string
  /** For RUN and `podman run`: no network, and limits that fit below low hard ones. */
  static readonly LIMITS = ['--network=none', '--ulimit=nofile=4096:4096', '--ulimit=nproc=4096:4096']

  constructor(
    readonly machine: Machine,
    name: string,
    readonly program: string,
    readonly user: boolean,
    readonly options: { runtime?: string; storageOptions?: readonly string[] } = {},
  ) {
    this.dir = path.join(user ? machine.home : machine.root, `store-${name}`)
    fs.mkdirSync(this.dir)
    if (user) fs.chownSync(this.dir, USER.uid, USER.uid)
  }

  get runtime(): string {
    return this.options.runtime ?? (this.user ? 'crun' : 'runc')
  }

  private storage(): string[] {
    const { storageOptions = [] } = this.options
    return [
      `--root=${this.dir}/root`,
      // 50 characters at most, says Podman.
      `--runroot=${this.user ? `/run/user/${USER.uid}` : '/run'}/${path.basename(this.dir)}`,
      '--storage-driver=overlay',
      `--storage-opt=overlay.mount_program=${this.program}`,
      ...storageOptions.map(option => `--storage-opt=${option}`),
    ]
  }

  private podmanArgs(args: readonly string[]): string[] {
    const own = [`--tmpdir=${this.dir}/tmp`, '--cgroup-manager=cgroupfs', '--events-backend=file']
    return [...this.storage(), ...own, `--runtime=${this.runtime}`, ...args]
  }

  /** @throws Error with what podman said */
  podman(args: readonly string[], options: RunOptions = {}): Promise<string> {
    return this.machine.ok('podman', this.podmanArgs(args), { ...options, user: this.user })
  }

  tryPodman(args: readonly string[], options: RunOptions = {}): Promise<Ran> {
    return this.machine.run('podman', this.podmanArgs(args), { ...options, user: this.user })
  }

  buildah(args: readonly string[], options: RunOptions = {}): Promise<string> {
    return this.machine.ok('buildah', [...this.storage(), ...args], { ...options, user: this.user })
  }

  /** A script in which `buildah` has the store's options; as an ordinary user inside `buildah unshare`, where it may mount. */
  buildahScript(script: string, env: Readonly<Record<string, string>> = {}): Promise<string> {
    const options = this.storage()
      .map(option => `'${option}'`)
      .join(' ')
    const text = `set -e\nB() { buildah ${options} "$@"; }\n${script}`
    return this.user
      ? this.machine.ok('buildah', [...this.storage(), 'unshare', 'sh', '-c', text], { user: true, env })
      : this.machine.ok('sh', ['-c', text], { env })
  }

  /** Directories of layers that are left. */
  layers(): string[] {
    const dir = path.join(this.dir, 'root/overlay')
    return fs.existsSync(dir) ? fs.readdirSync(dir).filter(name => /^[0-9a-f]{64}$/.test(name)) : []
  }
}
