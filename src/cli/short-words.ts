/**
 * Commands under the words that Docker's and Podman's users type: the same definitions with a shorter name, so that options,
 * help, completion and man pages are those of the long form.
 */
import { Command } from 'commander'
import { CliError } from './output.js'

/** Short word to group and command. */
const SHORT: Readonly<Record<string, readonly [group: string, command: string]>> = {
  ps: ['container', 'ls'],
  create: ['container', 'create'],
  cp: ['container', 'cp'],
  rename: ['container', 'rename'],
  rm: ['container', 'rm'],
  export: ['container', 'export'],
  images: ['image', 'ls'],
  rmi: ['image', 'rm'],
  pull: ['image', 'pull'],
  push: ['image', 'push'],
  tag: ['image', 'tag'],
  history: ['image', 'history'],
  save: ['image', 'save'],
  load: ['image', 'load'],
  import: ['image', 'import'],
}
export const SHORT_WORDS: readonly string[] = Object.keys(SHORT)

/** Words of Docker's that this program has no use for, and what serves instead. */
const ELSEWHERE: Readonly<Record<string, string>> = {
  network: "containers have the host's network, or none with --network none",
  compose:
    'one container a command; podman-compose with fuse-lamina as mount_program runs whole compositions',
  swarm: 'one machine is all that is served here',
  service: 'one machine is all that is served here',
  stack: 'one machine is all that is served here',
  node: 'one machine is all that is served here',
  secret: "--mount type=bind for a container, 'lamina build --secret' for a build",
  config: '--mount type=bind gives a container a file',
  context: 'LAMINA_ROOT or --root names another store',
  buildx: "'lamina build' is the builder",
  machine: 'containers run on this machine itself',
  pod: 'containers stand alone; podman with fuse-lamina as mount_program has pods',
  search: "a registry's own page lists what it has; 'lamina pull' takes it by name",
  trust: "an image is what its digest says: 'lamina pull NAME@sha256:…'",
  manifest: "'lamina image inspect' shows an image's manifest",
  checkpoint: 'processes cannot be frozen to disk here',
}

/** @throws CliError for a word of Docker's that is not one of this program's */
export function refuseElsewhere(word: string | undefined): void {
  const instead = word === undefined || !Object.hasOwn(ELSEWHERE, word) ? undefined : ELSEWHERE[word]
  if (instead !== undefined) throw new CliError(`there is no '${word}' here: ${instead}`, 2)
}

/** The long form of a short word: `container ls` of `ps`. */
export function longFormOf(word: string): string | undefined {
  return Object.hasOwn(SHORT, word) ? SHORT[word]?.join(' ') : undefined
}

export const groupOfShortWord = (word: string): string | undefined => longFormOf(word)?.split(' ')[0]

/**
 * Adds a short word to `program`.
 * @param register defines the group that has the command, `fresh` a program without any
 */
export function addShortWord(
  program: Command,
  word: string,
  register: (program: Command) => void,
  fresh: (root: Command) => Command,
): void {
  const [groupName, name] = SHORT[word] ?? []
  const scratch = fresh(new Unaliased('lamina'))
  register(scratch)
  const group = scratch.commands.find(one => one.name() === groupName)
  const command = group?.commands.find(one => one.name() === name)
  if (command === undefined) throw new Error(`no command 'lamina ${groupName ?? word} ${name ?? ''}'`)
  program.addCommand(
    command.name(word).description(`${command.description()} (short for 'lamina ${groupName} ${name}')`),
  )
}

/** A program whose commands have no aliases: `list` is one of several groups, and would be a word of the program's own. */
class Unaliased extends Command {
  override createCommand(name?: string): Command {
    return new Unaliased(name)
  }

  override alias(): string
  override alias(alias: string): this
  override alias(alias?: string): this | string {
    return alias === undefined ? '' : this
  }
}
