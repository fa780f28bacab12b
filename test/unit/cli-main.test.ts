import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Command } from 'commander'
import t from 'tap'
import { candidates } from '../../src/cli/commands/completion.js'
import { parseArguments } from '../../src/cli/fuse-lamina.js'
import { extraHelp, subcommandsOf } from '../../src/cli/help.js'
import { createProgram } from '../../src/cli/main.js'
import { manPages } from '../../src/cli/man-pages.js'
import { longFormOf, SHORT_WORDS } from '../../src/cli/short-words.js'

const PROJECT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../../..')

function lamina(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, [path.join(PROJECT, 'bin/lamina.js'), ...args], { encoding: 'utf8' })
}

t.test('exit codes: 0 done, 1 failed, 2 asked wrongly', async t => {
  t.equal(lamina('--help').status, 0)
  t.equal(lamina('--version').status, 0)
  t.equal(lamina('nonsense').status, 2)
  t.equal(lamina('mount', '--nonsense', '/mnt').status, 2)
  t.equal(lamina('mount').status, 2)
  const failed = lamina('umount', '/proc')
  t.equal(failed.status, 1)
  t.equal(failed.stderr, "lamina: '/proc' is not a Lamina mount of this user; lamina mounts lists them\n")
  const missing = lamina('diff', '/nowhere')
  t.equal(missing.status, 1)
  t.match(missing.stderr, /^lamina: .*'\/nowhere'\n$/)
})

t.test('a reader that has seen enough ends it, as SIGPIPE ends others', async t => {
  const script = '"$0" "$1" layer verify --help | true; echo "${PIPESTATUS[0]}"'
  const { stdout, stderr } = spawnSync(
    'bash',
    ['-c', script, process.execPath, path.join(PROJECT, 'bin/lamina.js')],
    { encoding: 'utf8' },
  )
  t.equal(stderr, '')
  t.equal(stdout, '141\n')
})

t.test('compiled code that was kept is used; damaged, it is refused and made anew', async t => {
  const cache = path.join(PROJECT, 'dist/.cache')
  const kept = (): string[] =>
    readdirSync(cache)
      .filter(name => name.endsWith(`-${process.version}-${process.arch}-mounts`))
      .map(name => path.join(cache, name))
  t.equal(lamina('mounts').status, 0)
  const [file = '', ...others] = kept()
  t.same(others, [])
  const code = readFileSync(file)
  t.equal(lamina('mounts').status, 0)
  t.equal(statSync(file).mtimeMs > 0 && readFileSync(file).equals(code), true, 'what is good is left alone')
  for (const damaged of [
    Buffer.alloc(0),
    code.subarray(0, code.length / 2),
    Buffer.from(code).fill(0x5a, 4096),
  ]) {
    writeFileSync(file, damaged)
    const { status, stderr } = lamina('mounts')
    t.equal(status, 0, stderr)
    t.ok(readFileSync(file).length > damaged.length / 2 && !readFileSync(file).equals(damaged), 'made anew')
  }
  t.equal(lamina('mounts', '--nonsense').status, 2)
  t.equal(lamina('../x').status, 2)
  t.same(kept(), [file], 'and what a user types is no part of a name')
})

t.test('a mistyped command is told its likely name', async t => {
  t.match(lamina('moutn').stderr, /Did you mean .*mount/)
})

t.test('every command has a description, and help with an example of it', async t => {
  const walk = (command: Command, words: string): void => {
    t.not(command.description(), '', words)
    const { examples } = extraHelp(command)
    // A command that can be typed in two ways has examples of one of them.
    const long = longFormOf(words.replace(/^lamina /, ''))
    const typed = long === undefined ? words.replace(/container (run|exec)$/, '$1') : `lamina ${long}`
    t.ok(examples.includes(typed), `an example of ${words}`)
    for (const child of subcommandsOf(command)) walk(child, `${words} ${child.name()}`)
  }
  walk(await createProgram('all'), 'lamina')
})

t.test("Docker's short words are the long commands, and have their options and arguments", async t => {
  const program = await createProgram('all')
  const find = (from: Command, name: string): Command | undefined =>
    from.commands.find(one => one.name() === name)
  for (const word of SHORT_WORDS) {
    const [group = '', name = ''] = longFormOf(word)?.split(' ') ?? []
    const [short, long] = [find(program, word), find(find(program, group) ?? program, name)]
    t.ok(short !== undefined && long !== undefined && short !== long, word)
    t.strictSame(
      short?.options.map(one => one.flags),
      long?.options.map(one => one.flags),
      word,
    )
    t.strictSame(short?.usage(), long?.usage(), word)
    t.strictSame(short?.aliases(), [], `${word} brings no second word`)
  }
  const { status, stdout } = lamina('ps', '--help')
  t.equal(status, 0)
  t.match(stdout, /^Usage: lamina ps /)
  t.same(await candidates(['rm']), ['rm', 'rmi'])
})

t.test("a word of Docker's that is not here says in one line what serves instead", async t => {
  for (const word of ['network', 'compose', 'swarm', 'buildx']) {
    const { status, stderr } = lamina(word, 'ls')
    t.equal(status, 2)
    t.match(stderr, new RegExp(`^lamina: there is no '${word}' here: [^\\n]+\\n$`))
  }
  t.match(lamina('constructor').stderr, /unknown command/)
})

t.test('lamina help finds commands of groups, and says which are not there', async t => {
  const { stdout } = lamina('help', 'volume', 'create')
  t.match(stdout, /^Usage: lamina volume create /)
  t.equal(stdout, lamina('volume', 'create', '--help').stdout)
  const missing = lamina('help', 'volume', 'craete')
  t.equal(missing.status, 2)
  t.equal(
    missing.stderr,
    "lamina: there is no command 'volume craete': 'lamina help volume' lists those that there are\n",
  )
})

t.test('man pages say what --help says, and are troff without a warning', async t => {
  const program = await createProgram('all')
  const pages = new Map(manPages(program).map(page => [page.file, page.text]))
  const signs: Record<string, string> = { aq: "'", ga: '`', ha: '^', ti: '~' }
  const plain = (text: string): string =>
    text.replaceAll('\\-', '-').replace(/\\\((..)/g, (_all, sign: string) => signs[sign] ?? '?')
  const walk = (command: Command, name: string): void => {
    const text = plain(pages.get(`${name}.1`) ?? '')
    for (const { flags, description } of command.createHelp().visibleOptions(command)) {
      t.not(description, '', `${name} ${flags}`)
      t.ok(text.includes(`.B ${flags}\n`), `${name} ${flags}`)
    }
    for (const line of extraHelp(command).examples.split('\n')) {
      t.ok(text.includes(line.replaceAll('\\', '\\e').replaceAll('…', '...')), `${name}: ${line}`)
    }
    for (const child of subcommandsOf(command)) walk(child, `${name}-${child.name()}`)
  }
  walk(program, 'lamina')
  const files = [...pages.keys()].sort()
  t.strictSame(readdirSync(path.join(PROJECT, 'dist/man')).sort(), files, 'the build wrote them')
  const { man } = JSON.parse(readFileSync(path.join(PROJECT, 'package.json'), 'utf8')) as { man: string[] }
  t.strictSame(
    man,
    files.map(file => `dist/man/${file}`),
    'else: node .ci/man.js --list',
  )
  const all = [...pages.values()].join('')
  const groff = spawnSync('groff', ['-man', '-Tutf8', '-ww', '-Wbreak', '-z'], {
    input: all,
    encoding: 'utf8',
  })
  if (groff.error === undefined) t.equal(groff.stderr, '')
})

t.test('only the group that is asked for is loaded', async t => {
  const names = (await createProgram(['mount', '/mnt'])).commands.map(command => command.name())
  t.ok(names.includes('mount'))
  t.notOk(names.includes('diff'))
})

t.test('the shell completes commands, options and their values', async t => {
  t.match(await candidates(['moun']), ['mount', 'mounts'])
  t.match(await candidates(['mount', '--up']), ['--upper'])
  t.strictSame(await candidates(['mounts', '--format', 'j']), ['json'])
  t.strictSame(await candidates(['completion', '']), ['bash', 'zsh', 'fish'])
  t.strictSame(await candidates(['umount', '/mnt/']), [])
})

t.test('completion scripts are what their shells accept', async t => {
  for (const shell of ['bash', 'zsh', 'fish']) {
    const script = lamina('completion', shell)
    t.equal(script.status, 0)
    // fish 3.6 takes a socket, which is what `input` would be, for a directory.
    const file = path.join(t.testdir({ [shell]: script.stdout }), shell)
    const check = spawnSync(shell, ['-n', file], { encoding: 'utf8' })
    if (check.error === undefined) t.equal(check.stderr, '', shell)
  }
  t.equal(lamina('completion', 'csh').status, 2)
})

t.test('the drop-in parses argv as getopt does', async t => {
  const parse = (...args: string[]): object => parseArguments(args)
  t.match(parse('-f', 'm'), { foreground: true, positional: ['m'] })
  t.match(parse('-o', 'a', '-ob', '-fo', 'c', '-do=', 'm'), {
    options: ['a', 'b', 'c', '='],
    foreground: true,
    debug: true,
    positional: ['m'],
  })
  t.match(parse('overlay', 'm', '-o', 'x'), { positional: ['overlay', 'm'], options: ['x'] })
  t.match(parse('-z', '--what=1', 'm', '--', '-n'), { unknown: ['-z', '--what=1'], positional: ['m', '-n'] })
  t.match(parse('--version', '--help'), { ask: 'help' })
  t.match(parse('-V'), { ask: 'version' })
  t.match(parse('-'), { positional: ['-'] })
})
