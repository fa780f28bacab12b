/**
 * ARG and ENV: what a build's instructions can refer to, and what RUN gets in its environment.
 * Source: docs.docker.com/reference/dockerfile, "ARG"; moby/buildkit dockerfile2llb.
 */
import { hostPlatform, readStep, type Containerfile, type Lookup, type Platform } from '../../oci/index.js'

/** May be given without an ARG in the file, and leave no trace in the image. */
const PROXIES = new Set(
  ['HTTP_PROXY', 'HTTPS_PROXY', 'FTP_PROXY', 'NO_PROXY', 'ALL_PROXY'].flatMap(name => [
    name,
    name.toLowerCase(),
  ]),
)

export class BuildVariables {
  /** Declared in this scope, with their values. */
  readonly #args = new Map<string, string>()

  private constructor(
    /** --build-arg. */
    readonly given: Readonly<Record<string, string>>,
    /** What an ARG without a default takes: global ARGs and the platform's. */
    readonly inherited: ReadonlyMap<string, string>,
  ) {}

  /** The scope before the first FROM. */
  static globals(
    file: Containerfile,
    given: Readonly<Record<string, string>>,
    platform: Platform,
  ): BuildVariables {
    const variables = new BuildVariables(given, platformArgs(platform))
    for (const [name, value] of variables.inherited) variables.#args.set(name, value)
    for (const instruction of file.globalArgs) {
      const step = readStep(instruction, variables.lookup(), file.escape)
      if (step.kind === 'arg') variables.declare(step.args)
    }
    return variables
  }

  /** A stage begins with none declared. */
  forStage(): BuildVariables {
    return new BuildVariables(this.given, new Map([...this.inherited, ...this.#args]))
  }

  declare(args: readonly { name: string; value: string | undefined }[]): void {
    for (const { name, value } of args) {
      const known = this.given[name] ?? value ?? this.inherited.get(name)
      if (known !== undefined) this.#args.set(name, known)
    }
  }

  /** ENV wins over ARG. */
  lookup(env: readonly string[] = []): Lookup {
    return name => {
      const entry = env.find(each => each.startsWith(`${name}=`))
      return entry === undefined ? this.#args.get(name) : entry.slice(name.length + 1)
    }
  }

  /** What RUN gets: the image's environment, and arguments that it does not set. */
  environment(env: readonly string[]): string[] {
    const set = new Set(env.map(entry => entry.slice(0, entry.indexOf('='))))
    const args = [...this.#args].filter(([name]) => !set.has(name)).map(([name, value]) => `${name}=${value}`)
    const proxies = Object.entries(this.given)
      .filter(([name]) => PROXIES.has(name) && !this.#args.has(name) && !set.has(name))
      .map(([name, value]) => `${name}=${value}`)
    return [...env, ...args, ...proxies]
  }

  /** As docker writes RUN into the history: `|2 A=b C=d /bin/sh -c …` with arguments. */
  createdBy(env: readonly string[] = [], command: readonly string[]): string {
    const set = new Set(env.map(entry => entry.slice(0, entry.indexOf('='))))
    const args = [...this.#args].filter(([name]) => !set.has(name)).map(([name, value]) => `${name}=${value}`)
    const line = command.join(' ')
    return args.length === 0 ? `RUN ${line}` : `RUN |${args.length} ${args.join(' ')} ${line}`
  }
}

function platformArgs(platform: Platform): Map<string, string> {
  const host = hostPlatform()
  const of = (prefix: string, { os, architecture, variant = '' }: Platform): [string, string][] => [
    [`${prefix}PLATFORM`, [os, architecture, variant].filter(part => part !== '').join('/')],
    [`${prefix}OS`, os],
    [`${prefix}ARCH`, architecture],
    [`${prefix}VARIANT`, variant],
  ]
  return new Map([...of('TARGET', platform), ...of('BUILD', host)])
}
