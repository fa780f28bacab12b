/**
 * Man pages (troff, man(7)) from the definitions that --help prints: one for `lamina`, one a command, named as git's are:
 * lamina-volume-create(1). `npm run build` writes them to dist/man.
 */
import type { Command } from 'commander'
import { extraHelp, subcommandsOf, wordsOf } from './help.js'
import { version } from './version.js'

export interface ManPage {
  /** `lamina-volume-create.1` */
  readonly file: string
  readonly text: string
}

/** Every command of `program`, in the order of --help. */
export function manPages(program: Command): ManPage[] {
  return withSubcommands(program).map(command => ({
    file: `${pageName(command)}.1`,
    text: manPage(command),
  }))
}

function withSubcommands(command: Command): Command[] {
  return [command, ...subcommandsOf(command).flatMap(withSubcommands)]
}

const pageName = (command: Command): string => wordsOf(command).replaceAll(' ', '-')

function manPage(command: Command): string {
  const help = command.createHelp()
  const words = wordsOf(command)
  const children = subcommandsOf(command)
  const { text, examples } = extraHelp(command)
  const usage = command.usage().replace(' [command]', children.length > 0 ? ' COMMAND' : ' [command]')
  const parts = [
    `.\\" Made from the definitions that '${words} --help' prints.`,
    `.TH ${quoted(pageName(command).toUpperCase())} 1 "" ${quoted(`Lamina ${version()}`)} "Lamina"\n.nh\n.ad l`,
    section('NAME', `${escaped(pageName(command))} \\- ${escaped(command.description())}`),
    section('SYNOPSIS', `.B ${escaped(words)}\n${escaped(usage)}`),
    section('DESCRIPTION', escaped(sentence(command.description()))),
    ...list(
      'COMMANDS',
      children.map(child => [
        `${[child.name(), ...child.aliases()].join(', ')}`,
        `${sentence(child.description())} See ${pageName(child)}(1).`,
      ]),
    ),
    ...list(
      'ARGUMENTS',
      help
        .visibleArguments(command)
        .map(argument => [help.argumentTerm(argument), sentence(help.argumentDescription(argument))]),
    ),
    ...list(
      'OPTIONS',
      help
        .visibleOptions(command)
        .map(option => [help.optionTerm(option), sentence(help.optionDescription(option))]),
    ),
    ...paragraphs(text),
    ...(examples === '' ? [] : [section('EXAMPLES', literal(examples))]),
    section('SEE ALSO', escaped(seeAlso(command, children))),
  ]
  return `${parts.join('\n')}\n`
}

function seeAlso(command: Command, children: readonly Command[]): string {
  const { parent } = command
  const relatives = [
    ...(parent === null ? [] : [parent]),
    ...(parent === null || parent.parent === null ? [] : subcommandsOf(parent)),
    ...children,
  ]
  const names = relatives.filter(one => one !== command).map(one => `${pageName(one)}(1)`)
  return [...new Set(['lamina(1)', ...names])].filter(name => name !== `${pageName(command)}(1)`).join(', ')
}

// ---- troff

/** Backslashes, and what would become a typographic sign: an example must paste into a shell. */
const escaped = (text: string): string =>
  text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replaceAll("'", '\\(aq')
    .replaceAll('`', '\\(ga')
    .replaceAll('^', '\\(ha')
    .replaceAll('~', '\\(ti')
    .replaceAll('…', '...')
    .replace(/^\./gm, '\\&.')

const quoted = (text: string): string => `"${escaped(text).replaceAll('"', '""')}"`
const section = (head: string, body: string): string => `.SH ${head}\n${body}`
const literal = (text: string): string => `.nf\n${escaped(text)}\n.fi`

function list(head: string, items: readonly (readonly [term: string, text: string])[]): string[] {
  if (items.length === 0) return []
  const body = items.map(([term, text]) => `.TP\n.B ${escaped(term)}\n${escaped(text) || '\\&'}`)
  return [section(head, body.join('\n'))]
}

/** A block with a heading of its own is a section. Indented lines stay lines. */
function paragraphs(text: string): string[] {
  const blocks = text.split(/\n\n+/).filter(block => block !== '')
  return blocks.map((block, index) => {
    const [, head, rest = ''] = /^([A-Z][a-z ]+):\n(.*)$/s.exec(block) ?? []
    const lines = (head === undefined ? block : rest).split('\n')
    const body = lines.map(line => (line.startsWith(' ') ? `.br\n${escaped(line.trim())}` : escaped(line)))
    if (head !== undefined) return section(head.toUpperCase(), body.join('\n'))
    return `${index === 0 ? '.SH NOTES' : '.PP'}\n${body.join('\n')}`
  })
}

function sentence(text: string): string {
  if (text === '') return ''
  const first = /^[a-z]+[ ,;:]/.test(text) ? text.charAt(0).toUpperCase() + text.slice(1) : text
  return /[.)]$/.test(first) ? first : `${first}.`
}
