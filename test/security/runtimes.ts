import { lacking } from '../manager/fixture.js'

/** How commands of a container are run. */
export interface Runtime {
  /** For the names of tests. */
  readonly name: 'crun' | 'runc' | 'none'
  readonly env: { readonly LAMINA_RUNTIME: string; readonly LAMINA_STORAGE_DRIVER: string }
}

/** Those that are there, and none. The kernel's overlayfs is the fastest store. */
export function runtimes(): Runtime[] {
  const names = (['crun', 'runc', 'none'] as const).filter(
    name => name === 'none' || lacking(name) === undefined,
  )
  return names.map(name => ({ name, env: { LAMINA_RUNTIME: name, LAMINA_STORAGE_DRIVER: 'overlay2' } }))
}
