import { writeSync } from 'node:fs'

/** The areas that LAMINA_DEBUG names, separated by commas: `LAMINA_DEBUG=fuse,overlay`; `all` is every one. */
export type DebugArea = 'fuse' | 'overlay' | 'sys' | 'daemon' | 'store'

export type DebugLog = (message: string) => void

const enabled = new Set((process.env['LAMINA_DEBUG'] ?? '').split(',').map(area => area.trim()))

/**
 * The log of one area, or undefined when it is off: callers write `log?.(…)`, and nothing is built when it is off.
 * Lines go to stderr with one write each, so that those of several processes do not mix.
 */
export function debug(area: DebugArea): DebugLog | undefined {
  if (!enabled.has(area) && !enabled.has('all')) return undefined
  const prefix = `${area}[${process.pid}] `
  return message => {
    try {
      writeSync(2, `${prefix}${message}\n`)
    } catch {
      // stderr is closed or full: a debug line is not worth an error.
    }
  }
}
