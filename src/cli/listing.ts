/**
 * Lists as every store command prints them: `table` for people, `json` for programs, or a template with `{{.Field}}`.
 *
 * The template language is the part of Docker's that lists are used with: `{{.Name}}`, `{{.A.B}}`, `{{json .}}`,
 * `{{json .Field}}`, `\t` and `\n`; anything else is printed as it stands. Field names are those of the JSON output,
 * written with any capitalisation of the first letter.
 */
import { Option } from 'commander'
import { CliError, print, printJson, table } from './output.js'

export interface Column<Row> {
  readonly head: string
  readonly cell: (row: Row) => string | number
}

export function listFormatOption(): Option {
  return new Option('--format <format>', "table, json, or a template: '{{.name}}\\t{{.size}}'").default(
    'table',
  )
}

/** `toJson` gives what programs see of a row; its keys are the fields of templates. */
export function printList<Row>(
  rows: readonly Row[],
  columns: readonly Column<Row>[],
  toJson: (row: Row) => object,
  format: string,
): void {
  if (format === 'json') {
    printJson(rows.map(toJson))
  } else if (format === 'table') {
    const heads = columns.map(column => column.head)
    print(
      table(
        heads,
        rows.map(row => columns.map(column => column.cell(row))),
      ),
    )
  } else {
    const render = compileTemplate(format)
    for (const row of rows) print(render(toJson(row)))
  }
}

/** One thing: JSON unless a template asks for something else. */
export function printObjects(values: readonly object[], format: string | undefined): void {
  if (format === undefined || format === 'json' || format === 'table') {
    printJson(values)
    return
  }
  const render = compileTemplate(format)
  for (const value of values) print(render(value))
}

/** @throws CliError for an action that is not known */
export function compileTemplate(template: string): (value: object) => string {
  const text = template
    .replace(/^table\s+/, '')
    .replaceAll('\\t', '\t')
    .replaceAll('\\n', '\n')
  const parts = text
    .split(/\{\{(.*?)\}\}/s)
    .map((part, index) => (index % 2 === 0 ? part : compileAction(part.trim())))
  return value => parts.map(part => (typeof part === 'string' ? part : part(value))).join('')
}

function compileAction(action: string): (value: object) => string {
  const match = /^(json\s+)?\.([A-Za-z0-9_.-]*)$/.exec(action)
  if (match === null) {
    throw new CliError(`--format: {{${action}}} is not understood; write {{.Field}} or {{json .Field}}`, 2)
  }
  const [, json, path = ''] = match
  const names = path === '' ? [] : path.split('.')
  return value => {
    let found: unknown = value
    for (const name of names) found = field(found, name, action)
    if (json !== undefined) return JSON.stringify(found) ?? 'null'
    if (found === undefined || found === null) return ''
    return typeof found === 'object' ? JSON.stringify(found) : String(found)
  }
}

function field(value: unknown, name: string, action: string): unknown {
  if (typeof value !== 'object' || value === null) return undefined
  const exact = Object.entries(value).find(([key]) => key === name)
  if (exact !== undefined) return exact[1]
  const loose = Object.entries(value).find(([key]) => key.toLowerCase() === name.toLowerCase())
  if (loose !== undefined) return loose[1]
  const known = Object.keys(value).join(', ')
  throw new CliError(`--format: there is no field ${name} in {{${action}}}; fields are ${known}`, 2)
}
