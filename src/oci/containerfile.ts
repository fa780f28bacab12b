/**
 * Dockerfiles and Containerfiles: instructions with their lines, in stages. dockerfile-ast reads the directives;
 * instructions are read here, since the library was made for editors: it drops blanks and quotes, and does not know a
 * heredoc with the number of a descriptor (`3<<EOF`).
 * Source: the Dockerfile reference; moby/buildkit frontend/dockerfile/{parser,instructions}.
 */
import { createRequire } from 'node:module'
import type * as Ast from 'dockerfile-ast'
import { OciError } from './error.js'
import { splitWords, type EscapeChar } from './shell-words.js'

/** Loaded with the first Containerfile: its fifty modules are more than all other commands need to start. */
function parseAst(text: string): Ast.Dockerfile {
  const { DockerfileParser } = createRequire(import.meta.url)('dockerfile-ast') as typeof Ast
  return DockerfileParser.parse(text)
}

export const keywords = [
  'ADD',
  'ARG',
  'CMD',
  'COPY',
  'ENTRYPOINT',
  'ENV',
  'EXPOSE',
  'FROM',
  'HEALTHCHECK',
  'LABEL',
  'MAINTAINER',
  'ONBUILD',
  'RUN',
  'SHELL',
  'STOPSIGNAL',
  'USER',
  'VOLUME',
  'WORKDIR',
] as const
export type Keyword = (typeof keywords)[number]

export interface Heredoc {
  /** The delimiter, which COPY takes as the file's name. */
  name: string
  content: string
  /** The delimiter was not quoted: variables count. */
  expand: boolean
}

export interface Instruction {
  keyword: Keyword
  /** Counted from 1. */
  line: number
  endLine: number
  /** `--name=value`, not expanded; value '' for `--name`. */
  flags: { name: string; value: string }[]
  /** One line: continuation lines joined, comments in them removed, flags removed; nothing expanded. */
  args: string
  /** The exec form, `["a", "b"]`. */
  json: string[] | undefined
  heredocs: Heredoc[]
  /** As it stands in the file, for messages and history. */
  text: string
}

export interface Stage {
  index: number
  /** `FROM x AS name`, lower case. */
  name: string | undefined
  from: Instruction
  /** Not expanded. */
  base: string
  platform: string | undefined
  instructions: Instruction[]
}

export interface Containerfile {
  escape: EscapeChar
  /** `# syntax=…` and others, lower case names. */
  directives: Map<string, string>
  /** ARG before the first FROM. */
  globalArgs: Instruction[]
  stages: Stage[]
}

const maxSize = 8 << 20
const heredocKeywords: ReadonlySet<Keyword> = new Set(['ADD', 'COPY', 'RUN'])
const jsonKeywords: ReadonlySet<Keyword> = new Set([
  'ADD',
  'CMD',
  'COPY',
  'ENTRYPOINT',
  'RUN',
  'SHELL',
  'VOLUME',
])

function malformed(line: number, message: string): OciError {
  return new OciError('malformed', `line ${line}: ${message}`)
}

/** @throws OciError `malformed`, beginning with the line */
export function parseContainerfile(text: string): Containerfile {
  if (text.length > maxSize) throw new OciError('limit', `a Containerfile of more than ${maxSize} bytes`)
  text = text.replace(/^\ufeff/, '').replace(/\r\n/g, '\n')
  const ast = parseAst(text)
  const escape: EscapeChar = ast.getEscapeCharacter() === '`' ? '`' : '\\'
  const directives = new Map<string, string>()
  for (const directive of ast.getDirectives())
    directives.set(directive.getName().toLowerCase(), directive.getValue())
  const lines = text.split('\n')
  const globalArgs: Instruction[] = []
  const stages: Stage[] = []
  for (const instruction of readInstructions(lines, escape)) {
    if (instruction.keyword === 'FROM') stages.push(readStage(instruction, stages.length))
    else if (stages.length > 0) (stages.at(-1) as Stage).instructions.push(instruction)
    else if (instruction.keyword === 'ARG') globalArgs.push(instruction)
    else throw malformed(instruction.line, `${instruction.keyword} before FROM`)
  }
  if (stages.length === 0) throw new OciError('malformed', 'the file has no FROM')
  const names = new Set<string>()
  for (const { name, from } of stages) {
    if (name === undefined) continue
    if (names.has(name)) throw malformed(from.line, `a second stage named '${name}'`)
    names.add(name)
  }
  return { escape, directives, globalArgs, stages }
}

/** One instruction of its own: what ONBUILD carries. `line` is for messages. */
export function parseInstruction(text: string, escape: EscapeChar, line: number): Instruction {
  for (const instruction of readInstructions(text.split('\n'), escape))
    return { ...instruction, line, endLine: line }
  throw malformed(line, 'no instruction')
}

/** A heredoc's body belongs to its instruction, whatever its lines look like. */
function* readInstructions(lines: readonly string[], escape: EscapeChar): Generator<Instruction, void, void> {
  for (let at = 0; at < lines.length;) {
    if (/^\s*(#|$)/.test(lines[at] ?? '')) {
      at += 1
      continue
    }
    const instruction = readInstruction(lines, at, escape)
    yield instruction
    at = instruction.endLine
  }
}

/** @param at the index of its first line */
function readInstruction(lines: readonly string[], at: number, escape: EscapeChar): Instruction {
  const line = at + 1
  const { logical, next } = joinLines(lines, at, escape)
  const [word = ''] = logical.trimStart().split(/\s/, 1)
  const keyword = word.toUpperCase()
  if (!isKeyword(keyword)) throw malformed(line, `unknown instruction '${word}'`)
  const rest = logical.trimStart().slice(keyword.length).trim()
  const { flags, args } = takeFlags(keyword, rest, line)
  // ONBUILD carries an instruction, with all that belongs to it.
  const carried = keyword === 'ONBUILD' ? (args.split(/\s/, 1)[0] ?? '').toUpperCase() : keyword
  const mayHave = isKeyword(carried) && heredocKeywords.has(carried)
  const { heredocs, end } = mayHave ? readHeredocs(args, lines, next, line) : { heredocs: [], end: next }
  return {
    keyword,
    line,
    endLine: end,
    flags,
    args,
    json: jsonKeywords.has(keyword) && heredocs.length === 0 ? readJson(args) : undefined,
    heredocs,
    text: lines.slice(at, end).join('\n'),
  }
}

function isKeyword(word: string): word is Keyword {
  return (keywords as readonly string[]).includes(word)
}

/** Joins lines that end in the escape character; comment lines and empty lines in between vanish, as in docker. */
function joinLines(
  lines: readonly string[],
  first: number,
  escape: EscapeChar,
): { logical: string; next: number } {
  let logical = ''
  let at = first
  while (at < lines.length) {
    const line = lines[at] ?? ''
    at += 1
    if (at > first + 1 && (/^\s*#/.test(line) || line.trim() === '')) continue
    const trimmed = line.replace(/[ \t]+$/, '')
    if (!trimmed.endsWith(escape)) return { logical: logical + line, next: at }
    logical += trimmed.slice(0, -1)
  }
  return { logical, next: at }
}

const flagKeywords: ReadonlySet<Keyword> = new Set(['ADD', 'COPY', 'FROM', 'HEALTHCHECK', 'RUN'])

function takeFlags(
  keyword: Keyword,
  text: string,
  line: number,
): { flags: Instruction['flags']; args: string } {
  const flags: Instruction['flags'] = []
  let rest = text
  while (flagKeywords.has(keyword)) {
    const match = /^--([a-z][\w-]*)(?:=((?:"(?:[^"\\]|\\.)*"|'[^']*'|\\.|[^\s"'\\])*))?(?:\s+|$)/i.exec(rest)
    if (match === null) {
      if (rest.startsWith('--') && !/^--(?:\s|$)/.test(rest))
        throw malformed(line, `bad flag '${rest.split(/\s/)[0] ?? ''}'`)
      break
    }
    flags.push({ name: (match[1] as string).toLowerCase(), value: match[2] ?? '' })
    rest = rest.slice(match[0].length)
  }
  return { flags, args: rest.trim() }
}

/** A JSON array of strings, and nothing else; anything that is not quite one is the shell form, as in docker. */
function readJson(args: string): string[] | undefined {
  if (!args.startsWith('[')) return undefined
  try {
    const value: unknown = JSON.parse(args)
    if (Array.isArray(value) && value.every(element => typeof element === 'string')) return value
  } catch {
    // shell form
  }
  return undefined
}

const heredocWord = /^\d*<<(-?)(["']?)([A-Za-z_][\w.]*)\2$/

export function isHeredocAlone(args: string): boolean {
  return heredocWord.test(args)
}

/** `<<NAME`, `<<-NAME`, `<<"NAME"` in the order of the line; then their bodies. */
function readHeredocs(
  args: string,
  lines: readonly string[],
  next: number,
  line: number,
): { heredocs: Heredoc[]; end: number } {
  const heredocs: Heredoc[] = []
  let at = next
  for (const word of splitWords(args)) {
    const match = heredocWord.exec(word)
    if (match === null) continue
    const [, dash, quote, name = ''] = match
    const content: string[] = []
    for (;;) {
      const text = lines[at++]
      if (text === undefined) throw malformed(line, `unterminated heredoc '${name}'`)
      const stripped = dash === '-' ? text.replace(/^\t+/, '') : text
      if (stripped === name) break
      content.push(stripped)
    }
    heredocs.push({ name, content: content.map(text => `${text}\n`).join(''), expand: quote === '' })
  }
  return { heredocs, end: at }
}

function readStage(from: Instruction, index: number): Stage {
  const words = splitWords(from.args)
  const [base, as, name] = words
  const named = words.length === 3 && as?.toUpperCase() === 'AS'
  if (base === undefined || (words.length !== 1 && !named)) {
    throw malformed(from.line, 'FROM takes an image, and AS with a name after it')
  }
  if (named && !/^[a-z][a-z0-9_.-]*$/i.test(name as string))
    throw malformed(from.line, `'${name}' is not a stage name`)
  for (const flag of from.flags) {
    if (flag.name !== 'platform') throw malformed(from.line, `FROM has no flag --${flag.name}`)
  }
  return {
    index,
    name: named ? (name as string).toLowerCase() : undefined,
    from,
    base,
    platform: from.flags.find(flag => flag.name === 'platform')?.value,
    instructions: [],
  }
}
