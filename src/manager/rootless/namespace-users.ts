/** The processes that live in an ordinary user's namespaces, and those that keep them. */
import { readdirSync, readFileSync, statSync } from 'node:fs'
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
  const run = runDirectory()
  const uid = process.geteuid?.()
  for (const pid of allProcesses()) {
    try {
      const env = readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0')
      if (!env.includes(`LAMINA_RUN=${run}`) || !isSame(pid, run)) continue
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

/**
 * Another mount namespace of the host may have another directory at this path. One that has ended with its user's last login is
 * none any more.
 */
function isSame(pid: number, directory: string): boolean {
  const own = statSync(directory)
  const theirs = statSync(`/proc/${pid}/root${directory}`, { throwIfNoEntry: false })
  return theirs === undefined || (theirs.dev === own.dev && theirs.ino === own.ino)
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
