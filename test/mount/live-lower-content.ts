/** Files whose content says whether it is one, and when they were changed: for live-lower.test.ts and its workers. */
import fs from 'node:fs'

export const FILES = 48

/** Milliseconds after a change in place within which a reader may still have begun with the old content. */
const SETTLED = 150

export function fileOf(index: number): string {
  return `d${index % 6}/f${index}`
}

/** `lines` lines of version `version`; the first one says how many there are. */
export function contentOf(version: number, lines: number): string {
  let text = `${version} ${lines}\n`
  for (let i = 1; i < lines; i++) text += `${version} line ${i}\n`
  return text
}

/** What is wrong with it; `whole`: it has to be one version from beginning to end. */
export function wrong(content: Buffer, whole: boolean): string | undefined {
  if (content.includes(0)) return 'NUL bytes'
  if (!whole) return undefined
  const text = content.toString('latin1')
  const lines = text.split('\n')
  const [version = '', count = ''] = (lines[0] ?? '').split(' ')
  if (lines.pop() !== '' || lines.length !== Number(count))
    return `version ${version} has ${lines.length} of ${count} lines`
  return lines.every(line => line.startsWith(`${version} `)) ? undefined : 'two versions'
}

/** When each file was changed in place last, in a file that all processes have open: milliseconds since 1970, Infinity while it is. */
export class Times {
  private readonly fd: number
  private readonly one = new Float64Array(1)

  constructor(path: string) {
    this.fd = fs.openSync(path, 'r+')
  }

  static create(path: string): Times {
    fs.writeFileSync(path, new Uint8Array(FILES * 8))
    return new Times(path)
  }

  set(index: number, time: number): void {
    this.one[0] = time
    fs.writeSync(this.fd, this.one, 0, 8, index * 8)
  }

  private get(index: number): number {
    fs.readSync(this.fd, this.one, 0, 8, index * 8)
    return this.one[0] ?? 0
  }

  /** To be given to {@link rested} once the file was read. */
  now(index: number): number {
    const last = this.get(index)
    return Date.now() - last < SETTLED || last === Infinity ? NaN : last
  }

  /** Whether nobody changed the file in place since `before`, nor shortly before. */
  rested(index: number, before: number): boolean {
    return this.get(index) === before
  }
}
