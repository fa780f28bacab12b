import { Argument, type Command, type Option } from 'commander'
import { createProgram } from '../main.js'
import { print } from '../output.js'
import { storeNames } from '../store-names.js'

/** `lamina completion SHELL`: scripts that ask `lamina __complete WORD…` for the words that could come next. */

const SCRIPTS = {
  bash: `# lamina completion bash > /etc/bash_completion.d/lamina
_lamina() {
  local IFS=$'\\n'
  COMPREPLY=($(compgen -W "$("\${COMP_WORDS[0]}" __complete -- "\${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" -- "\${COMP_WORDS[COMP_CWORD]}"))
}
complete -o bashdefault -o default -F _lamina lamina
`,
  zsh: `#compdef lamina
# lamina completion zsh > "\${fpath[1]}/_lamina"
_lamina() {
  local -a candidates
  candidates=("\${(@f)$("\${words[1]}" __complete -- "\${(@)words[2,CURRENT]}" 2>/dev/null)}")
  compadd -a candidates
  _files
}
compdef _lamina lamina
`,
  fish: `# lamina completion fish > ~/.config/fish/completions/lamina.fish
complete -c lamina -a '(set -l words (commandline -opc) (commandline -ct); lamina __complete -- $words[2..-1] 2>/dev/null)'
`,
} as const

export function register(program: Command): void {
  program
    .command('completion')
    .description('print the completion script of a shell')
    .addArgument(new Argument('<shell>').choices(Object.keys(SCRIPTS)))
    .addHelpText('after', '\nExample:\n  source <(lamina completion bash)')
    .action((shell: keyof typeof SCRIPTS) => print(SCRIPTS[shell]))

  program
    .command('__complete', { hidden: true })
    .argument('[words...]')
    .action(async (words: string[]) => {
      const found = await candidates(words)
      if (found.length > 0) print(found.join('\n'))
    })
}

/** The words that may stand last, given the ones before it. File names are the shell's own business. */
export async function candidates(words: readonly string[]): Promise<string[]> {
  let command = await createProgram('all')
  const path: string[] = []
  const before: string[] = []
  let root: string | undefined
  let valueOf: Option | undefined
  let onlyArguments = false
  for (const word of words.slice(0, -1)) {
    const option = valueOf
    valueOf = undefined
    if (option !== undefined) {
      if (option.long === '--root') root = word
    } else if (word === '--') {
      onlyArguments = true
    } else if (word.startsWith('-') && !onlyArguments) {
      const [flag, value] = word.split(/=(.*)/s)
      const known = command.options.find(one => one.long === flag || one.short === flag)
      if (value === undefined && known?.required === true) valueOf = known
      else if (flag === '--root') root = value
    } else {
      const sub = before.length === 0 ? subcommandOf(command, word) : undefined
      if (sub === undefined) before.push(word)
      else {
        command = sub
        path.push(sub.name())
      }
    }
  }
  const last = words.at(-1) ?? ''
  const matching = (names: readonly string[]): string[] => names.filter(name => name.startsWith(last))
  if (valueOf !== undefined) return matching(valueOf.argChoices ?? [])
  const help = command.createHelp()
  if (last.startsWith('-') && !onlyArguments) {
    return matching(help.visibleOptions(command).map(option => option.long ?? option.short ?? ''))
  }
  if (path[0] === 'help') return matching(commandsBelow(await createProgram('all'), before))
  const choices = command.registeredArguments[before.length]?.argChoices ?? []
  const names = await storeNames(path.join(' '), { root, before }).catch(() => [])
  return matching([...(before.length === 0 ? commandsBelow(command, []) : []), ...choices, ...names])
}

function subcommandOf(command: Command, word: string): Command | undefined {
  return command.commands.find(one => one.name() === word || one.aliases().includes(word))
}

function commandsBelow(command: Command, words: readonly string[]): string[] {
  const [first, ...rest] = words
  if (first === undefined)
    return command
      .createHelp()
      .visibleCommands(command)
      .map(one => one.name())
  const sub = subcommandOf(command, first)
  return sub === undefined ? [] : commandsBelow(sub, rest)
}
