/** What `ADD https://…` brings: fetched once in a build, into a scratch directory that goes with it. */
import { join } from 'node:path'
import { fromUtf8 } from '../../base/bytes.js'
import type { Fd } from '../../base/fd.js'
import type { CopyStep, Digest } from '../../oci/index.js'
import { downloadFile } from '../../oci/download.js'
import * as sys from '../../sys/index.js'
import type { Scratch, Store } from '../store.js'
import { StoreError } from '../store-error.js'

/** Bytes of one file, unless the caller says otherwise: far above what anybody adds, below what fills a disk unseen. */
export const MAX_DOWNLOAD = 16 * 1024 ** 3

/** A downloaded file, as COPY would find it: mode 0600, the time that the server says, the name that the URL ends in. */
export interface RemoteFile {
  readonly path: string
  /** Byte name; '' where the URL has none. */
  readonly name: string
  readonly digest: Digest
}

export function isRemote(step: CopyStep, source: string): boolean {
  return step.kind === 'add' && step.from === undefined && /^https?:\/\//i.test(source)
}

/**
 * What ADD cannot fetch, said before anything is done.
 * @throws StoreError unsupported, invalid
 */
export function checkSources(step: CopyStep): void {
  if (step.kind !== 'add') return
  const git = step.sources.find(source =>
    /^(git|ssh):\/\/|^git@[^/]+:|^https?:\/\/[^?#]+\.git(#.*)?$/i.test(source),
  )
  if (git !== undefined) {
    throw new StoreError(
      'unsupported',
      `ADD ${git}: repositories are not cloned`,
      'clone it in a RUN step, or beside the Containerfile',
    )
  }
  const remote = step.sources.filter(source => isRemote(step, source))
  if (step.checksum === undefined) return
  if (!/^sha256:[0-9a-f]{64}$/.test(step.checksum)) {
    throw new StoreError('invalid', `--checksum=${step.checksum} is not sha256: and 64 hex digits`)
  }
  if (remote.length !== 1 || step.sources.length !== 1) {
    throw new StoreError('invalid', '--checksum takes exactly one source, an http or https URL')
  }
}

export class RemoteFiles implements AsyncDisposable {
  #scratch: Scratch | undefined
  readonly #files = new Map<string, Promise<RemoteFile>>()

  constructor(
    readonly store: Store,
    readonly options: { readonly max?: number | undefined; readonly signal?: AbortSignal | undefined },
  ) {}

  /** What decides whether a cached step still holds: the contents, or the checksum that says them beforehand. */
  async identity(step: CopyStep): Promise<string[]> {
    const urls = step.sources.filter(source => isRemote(step, source))
    if (step.checksum !== undefined) return [step.checksum]
    return (await this.fetch(step, urls)).map(file => file.digest)
  }

  /** @throws OciError; StoreError failed where a file is not what --checksum says */
  async fetch(step: CopyStep, urls: readonly string[]): Promise<RemoteFile[]> {
    const files: RemoteFile[] = []
    for (const url of urls) {
      const known = this.#files.get(url) ?? this.#download(url, this.#files.size)
      this.#files.set(url, known)
      const file = await known
      if (step.checksum !== undefined && step.checksum !== file.digest) {
        throw new StoreError('failed', `${url} has digest ${file.digest}, expected ${step.checksum}`)
      }
      files.push(file)
    }
    return files
  }

  async #download(text: string, index: number): Promise<RemoteFile> {
    const url = new URL(text)
    this.#scratch ??= this.store.scratch()
    const path = join(this.#scratch.dir, `${index}`)
    using fd: Fd = sys.openat(
      sys.AT_FDCWD,
      fromUtf8(path),
      sys.O_WRONLY | sys.O_CREAT | sys.O_EXCL | sys.O_NOFOLLOW,
      0o600,
    )
    const { digest, modified = 0 } = await downloadFile(url, fd.n, {
      max: this.options.max ?? MAX_DOWNLOAD,
      signal: this.options.signal,
    })
    sys.fchmod(fd.n, 0o600)
    sys.utimensAt(fd.n, '', modified, 0, modified, 0)
    return { path, name: nameOf(url), digest }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled(this.#files.values())
    await this.#scratch?.[Symbol.asyncDispose]()
  }
}

/** The last part of the path, decoded; '' where that is no name of a file. */
function nameOf(url: URL): string {
  const last = url.pathname.slice(url.pathname.lastIndexOf('/') + 1)
  let name = last
  try {
    name = decodeURIComponent(last)
  } catch {
    // %FF is no UTF-8: as it stands
  }
  return name === '.' || name === '..' || /[/\0]/.test(name) || name.length > 255 ? '' : fromUtf8(name)
}
