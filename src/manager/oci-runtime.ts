import { accessSync, constants } from 'node:fs'
import { join } from 'node:path'

/** A program of PATH, or `undefined`. */
export function findProgram(name: string): string | undefined {
  const dirs = [...(process.env['PATH'] ?? '').split(':'), '/usr/sbin', '/usr/bin', '/sbin', '/bin']
  for (const dir of dirs) {
    if (dir === '') continue
    const path = join(dir, name)
    try {
      accessSync(path, constants.X_OK)
      return path
    } catch {
      // Not here.
    }
  }
  return undefined
}

/** The OCI runtime that runs containers and RUN steps: LAMINA_RUNTIME, else crun, else runc. */
export function findRuntime(): string | undefined {
  const named = process.env['LAMINA_RUNTIME']
  if (named !== undefined && named !== '') return named === 'none' ? undefined : findProgram(named)
  return findProgram('crun') ?? findProgram('runc')
}
