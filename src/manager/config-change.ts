/**
 * Instructions that change the config and no files: of a Containerfile, of `commit --change` and `import --change`.
 * Source: docs.docker.com/reference/dockerfile; moby builder/dockerfile/dispatchers.go.
 */
import { parseInstruction, readStep } from '../oci/index.js'
import type { BuildStep, Command, Healthcheck, Lookup, RunConfig } from '../oci/index.js'
import { StoreError } from './store-error.js'

export const DEFAULT_SHELL: readonly string[] = ['/bin/sh', '-c']

/** A step that needs no files: everything but RUN, COPY and ADD. */
export type ConfigStep = Exclude<BuildStep, { kind: 'run' | 'copy' | 'add' }>

export function isConfigStep(step: BuildStep): step is ConfigStep {
  return step.kind !== 'run' && step.kind !== 'copy' && step.kind !== 'add'
}

/** Applies one line such as `ENV A=b`. @throws OciError malformed; StoreError invalid */
export function applyChange(config: RunConfig, line: string): void {
  const step = readStep(parseInstruction(line, '\\', 1), environmentOf(config))
  if (!isConfigStep(step) || step.kind === 'arg') {
    throw new StoreError(
      'invalid',
      `'${line}' changes no config`,
      'e.g. CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, USER, VOLUME, WORKDIR',
    )
  }
  applyConfigStep(config, step)
}

/** What an instruction can refer to by `$NAME`: the image's environment. */
export function environmentOf(config: RunConfig): Lookup {
  return name => {
    const entry = config.Env?.find(each => each.startsWith(`${name}=`))
    return entry?.slice(name.length + 1)
  }
}

export function applyConfigStep(config: RunConfig, step: ConfigStep): void {
  switch (step.kind) {
    case 'env':
      for (const [name, value] of step.pairs) config.Env = withVariable(config.Env ?? [], name, value)
      return
    case 'label':
      config.Labels = { ...config.Labels, ...Object.fromEntries(step.pairs) }
      return
    case 'arg':
      // Known to the build alone.
      return
    case 'workdir':
      config.WorkingDir = resolveWorkdir(config.WorkingDir, step.value)
      return
    case 'user':
      config.User = step.value
      return
    case 'stopsignal':
      if (!/^(\d+|(SIG)?[A-Z][A-Z0-9+-]*)$/.test(step.value)) {
        throw new StoreError('invalid', `STOPSIGNAL ${step.value} is no signal`, 'e.g. SIGTERM, or a number')
      }
      config.StopSignal = step.value
      return
    case 'maintainer':
      config.Labels = { ...config.Labels, maintainer: step.value }
      return
    case 'cmd':
      config.Cmd = commandLine(config, step.command)
      return
    case 'entrypoint':
      config.Entrypoint = commandLine(config, step.command)
      return
    case 'expose':
      config.ExposedPorts = { ...config.ExposedPorts, ...emptyObjects(step.ports) }
      return
    case 'volume':
      config.Volumes = { ...config.Volumes, ...emptyObjects(step.paths) }
      return
    case 'shell':
      config.Shell = step.command
      return
    case 'healthcheck':
      config.Healthcheck = healthcheckConfig(step.healthcheck)
      return
    case 'onbuild':
      config.OnBuild = [...(config.OnBuild ?? []), step.text]
      return
  }
}

function emptyObjects(names: readonly string[]): Record<string, object> {
  return Object.fromEntries(names.map(name => [name, {}]))
}

/** Exec form as it is; shell form through the image's shell. */
export function commandLine(config: RunConfig, command: Command): string[] {
  return 'exec' in command ? command.exec : [...(config.Shell ?? DEFAULT_SHELL), command.shell]
}

export function withVariable(env: readonly string[], name: string, value: string): string[] {
  const index = env.findIndex(entry => entry.startsWith(`${name}=`))
  return index < 0
    ? [...env, `${name}=${value}`]
    : env.map((entry, i) => (i === index ? `${name}=${value}` : entry))
}

/** `wanted` as an absolute path without `.` and `..`; a relative one is below `current`. */
export function resolveWorkdir(current: string | undefined, wanted: string): string {
  const path = wanted.startsWith('/') ? wanted : `${current ?? '/'}/${wanted}`
  const parts: string[] = []
  for (const part of path.split('/')) {
    if (part === '..') parts.pop()
    else if (part !== '' && part !== '.') parts.push(part)
  }
  return '/' + parts.join('/')
}

function healthcheckConfig(check: Healthcheck): Record<string, unknown> {
  const { test, interval, timeout, startPeriod, startInterval, retries } = check
  return {
    Test: test,
    ...(interval === undefined ? {} : { Interval: interval }),
    ...(timeout === undefined ? {} : { Timeout: timeout }),
    ...(startPeriod === undefined ? {} : { StartPeriod: startPeriod }),
    ...(startInterval === undefined ? {} : { StartInterval: startInterval }),
    ...(retries === undefined ? {} : { Retries: retries }),
  }
}
