import { Argument, type Command } from 'commander'
import { createProgram } from '../main.js'
import { print } from '../output.js'

/** `lamina completion SHELL`: scripts that ask `lamina __complete WORD…` for the words that could come next. */

type Completer = () => Promise<string[]>
const completers = new Map<string, Completer>()

/** Lets `lamina COMMAND <TAB>` offer names, e.g. `completeWith('volume rm', volumeNames)`. */
export function completeWith(command: string, completer: Completer): void {
  completers.set(command, completer)
}

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
  let argument = 0
  for (const word of words.slice(0, -1)) {
    const sub =
      argument === 0 ? command.commands.find(c => c.name() === word || c.aliases().includes(word)) : undefined
    if (sub !== undefined) {
      command = sub
      path.push(sub.name())
    } else if (!word.startsWith('-')) {
      argument++
    }
  }
  const last = words.at(-1) ?? ''
  const help = command.createHelp()
  if (last.startsWith('-')) {
    return help
      .visibleOptions(command)
      .map(option => option.long ?? option.short ?? '')
      .filter(option => option.startsWith(last))
  }
  const previous = words.at(-2)
  const option = command.options.find(o => o.long === previous || o.short === previous)
  if (option?.argChoices !== undefined) return option.argChoices.filter(choice => choice.startsWith(last))
  const names = help.visibleCommands(command).map(c => c.name())
  const choices = command.registeredArguments[argument]?.argChoices ?? []
  const dynamic =
    (await completers
      .get(path.join(' '))?.()
      .catch(() => [])) ?? []
  return [...names, ...choices, ...dynamic].filter(name => name.startsWith(last))
}
