/** The processes that live in an ordinary user's namespaces, and those that keep them. */
import { readdirSync, readFileSync } from 'node:fs'
import { runDirectory } from '../../daemon/client.js'
import { entered, idMapsOf, namespacesOf, USERNS_VARIABLE, type Namespaces } from './standing.js'

export interface Survivor extends Namespaces {
  readonly pid: number
  readonly id: string
}

/**
 * A process of this user that lives in namespaces without a holder: one that a command started in them, or a holder whose file
 * was removed.
 */
export function survivor(): Survivor | undefined {
  const run = `LAMINA_RUN=${runDirectory()}`
  const uid = process.geteuid?.()
  for (const pid of allProcesses()) {
    try {
      const env = readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0')
      if (!env.includes(run)) continue
      if (isHolder(pid) && idMapsOf(pid).gid.length > 0) {
        // lamina-userns hold ID …
        const [, , id = ''] = readFileSync(`/proc/${pid}/cmdline`, 'latin1').split('\0')
        return { pid, ...namespacesOf(pid), id }
      }
      const value = env.find(each => each.startsWith(`${USERNS_VARIABLE}=`))
      const found = entered(pid, value?.slice(USERNS_VARIABLE.length + 1))
      if (found !== undefined && found.uid === uid) return { pid, ...found }
    } catch {
      // Somebody else's, or gone.
    }
  }
  return undefined
}

/** All processes in these namespaces, or in a mount namespace of their own in the same user namespace. */
export function processesIn(namespaces: Namespaces): number[] {
  return allProcesses().filter(pid => {
    try {
      return namespacesOf(pid).user === namespaces.user
    } catch {
      return false
    }
  })
}

/** Those that are there for a purpose of their own. */
export function usersOf(namespaces: Namespaces): number[] {
  return processesIn(namespaces).filter(pid => !isHolder(pid))
}

/** Several, where a state file was removed and written anew. */
export function endHolders(namespaces: Namespaces): void {
  for (const pid of processesIn(namespaces).filter(isHolder)) {
    try {
      process.kill(pid, 'SIGTERM')
    } catch {
      // It has just ended.
    }
  }
}

function isHolder(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/comm`, 'latin1').trim() === 'lamina-holder'
  } catch {
    return false
  }
}

function allProcesses(): number[] {
  return readdirSync('/proc')
    .filter(name => /^\d+$/.test(name))
    .map(Number)
}
