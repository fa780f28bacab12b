/** The stages of a Containerfile: which one a name means, and which are needed. */
import { expandWord, mountFrom, type Containerfile, type Lookup, type Stage } from '../../oci/index.js'
import { StoreError } from '../store-error.js'

export class StageGraph {
  readonly stages: readonly Stage[]

  constructor(
    readonly file: Containerfile,
    /** ARGs before the first FROM. */
    readonly globals: Lookup,
    /** A name that stands for something else, whatever the file says. */
    readonly isElsewhere: (name: string) => boolean,
  ) {
    this.stages = file.stages
  }

  /** The stage to build: by name or number, else the last one. @throws StoreError not-found */
  target(wanted: string | undefined): number {
    if (wanted === undefined) return this.stages.length - 1
    const index = this.index(wanted, this.stages.length)
    if (index === undefined) throw new StoreError('not-found', `the file has no stage '${wanted}'`)
    return index
  }

  /** A stage before `limit`, by name or number. */
  index(name: string, limit: number): number | undefined {
    if (this.isElsewhere(name)) return undefined
    const byName = this.stages.findIndex((stage, index) => index < limit && stage.name === name.toLowerCase())
    if (byName >= 0) return byName
    return /^\d+$/.test(name) && Number(name) < limit ? Number(name) : undefined
  }

  base(stage: Stage): string {
    return expandWord(stage.base, this.globals, this.file.escape)
  }

  /** Stages that `index` stands on, copies from or binds from, itself included; others are not built. */
  needed(index: number, found = new Set<number>()): ReadonlySet<number> {
    const stage = this.stages[index]
    if (stage === undefined || found.has(index)) return found
    found.add(index)
    for (const name of [this.base(stage), ...sourcesOf(stage)]) {
      const other = this.index(name, index)
      if (other !== undefined) this.needed(other, found)
    }
    return found
  }
}

/** What a stage's instructions name as `from`. */
function sourcesOf(stage: Stage): string[] {
  return stage.instructions
    .flatMap(instruction => instruction.flags)
    .flatMap(({ name, value }) => (name === 'from' ? value : (name === 'mount' && mountFrom(value)) || []))
}
