/**
 * What a daemon that died knew of, as its successor finds it: read when it is asked for, so that a hundred thousand inodes are taken
 * over without making one.
 */
export interface KnownInode {
  readonly nodeid: number
  /** S_IF* bits. */
  readonly type: number
  /** st_ino. */
  readonly ino: number
  readonly nlookup: number
  /** Where the journal has it. */
  readonly slot: number
  /** The first one is its name, the others are its aliases; none when it is nameless. */
  readonly names: readonly KnownName[]
}

export interface KnownName {
  readonly parent: number
  readonly name: string
}

/** Each inode is given once, by whichever of the calls. */
export interface Predecessor {
  /** How many are still to be given. */
  readonly left: number
  take(nodeid: number): KnownInode | undefined
  /** Numbers of those that have a name in this directory, in the order in which they got it; may have some that were given before. */
  childrenOf(nodeid: number): readonly number[]
  /** Numbers of at most so many that were not given before. */
  some(count: number): readonly number[]
}
