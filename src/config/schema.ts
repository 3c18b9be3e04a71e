import type { TSchema } from 'typebox'
import { Type } from 'typebox'
import { ENGINE_SETTINGS, type EngineName, type EngineSetting } from './engine-settings.js'

/** Versions of the configuration file that are read. */
export const CONFIG_VERSIONS: readonly number[] = [1]

/** Annotation of a schema: what is expected there, as the end of the sentence "… is not". */
export const EXPECTS = 'x-expects'

/** What `stores` says where the hot tier is a BookKeeper cluster. */
export const BOOKKEEPER = 'bookkeeper'
/** Servers, then the namespace; no place for a password. */
const METADATA = String.raw`^zk://[^\s/@,]+(,[^\s/@,]+)*(/[^\s/@]+)+$`

const TIME_UNIT = 'ms|milliseconds?|s|seconds?|m|min|minutes?|h|hours?|d|days?|w|weeks?|y|years?'
const DURATION = String.raw`\d+(\.\d+)?\s*(${TIME_UNIT})?`
const SIZE = String.raw`\d+(\.\d+)?\s*([KMGT]i?B|B)?`

type Annotations = { readonly description: string; readonly default?: unknown }

/** `archive-down` → `archiveDown`. */
export const camelKey = (key: string): string =>
  key.replace(/-([a-z])/g, (_, letter: string) => letter.toUpperCase())
/** `archiveDown` → `archive-down`. */
export const kebabKey = (key: string): string => key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)

const strict = (properties: Record<string, TSchema>, annotations: Annotations): TSchema =>
  Type.Object(properties, {
    additionalProperties: false,
    ...annotations,
    [EXPECTS]: 'a group of keys: write keys under it, or remove it',
  })
const optional = (properties: Record<string, TSchema>): Record<string, TSchema> =>
  Object.fromEntries(Object.entries(properties).map(([key, schema]) => [key, Type.Optional(schema)]))
const oneOf = (values: readonly string[], annotations: Annotations): TSchema =>
  Type.Enum([...values], { ...annotations, [EXPECTS]: `one of ${values.join(', ')}` })
const text = (expects: string, annotations: Annotations): TSchema =>
  Type.String({ minLength: 1, ...annotations, [EXPECTS]: expects })
const count = (annotations: Annotations): TSchema =>
  Type.Integer({ minimum: 1, ...annotations, [EXPECTS]: 'a whole number of at least 1' })

/**
 * Where a setting stands: in code, or in files and variables, with keys and units for people. There a bare number was
 * hardly meant as milliseconds or bytes: `keep: { for: 90 }` would trim everything at once.
 */
type Written = 'file' | 'code'

function measure(
  written: Written,
  pattern: string,
  word: string | null,
  expects: string,
  annotations: Annotations,
): TSchema {
  // The unit is the last group of both patterns.
  const text = written === 'file' ? `${pattern.replace(/\?$/, '')}|0` : pattern
  const source = word === null ? `^(${text})$` : `^(${word}|${text})$`
  const bare = Type.Number(written === 'file' ? { minimum: 0, maximum: 0 } : { minimum: 0 })
  return Type.Union([Type.String({ pattern: source }), bare], {
    ...annotations,
    [EXPECTS]: word === null ? expects : `${expects}, or ${word}`,
  })
}
const duration = (written: Written, annotations: Annotations, word: string | null = null): TSchema =>
  measure(
    written,
    DURATION,
    word,
    'a duration: write a number and ms, s, m, h, d, w or y, as 90s or 7 years',
    annotations,
  )
const size = (written: Written, annotations: Annotations, word: string | null = null): TSchema =>
  measure(
    written,
    SIZE,
    word,
    'a size: write a number and B, KB, MB, GB, TB, KiB, MiB, GiB or TiB, as 64 MiB',
    annotations,
  )
const rate = (annotations: Annotations): TSchema =>
  Type.String({
    pattern: `^(unlimited|${SIZE}/s)$`,
    ...annotations,
    [EXPECTS]: 'a rate, as 80 MiB/s, or unlimited',
  })

function archive(what: string): TSchema {
  const pattern = String.raw`^(?![A-Za-z][A-Za-z0-9+.-]*://)\S.*$|^(s3|hdfs)://\S+$`
  return Type.String({
    pattern,
    description: `${what} A directory, s3://bucket/path, hdfs://host:port/path, or none. No credentials.`,
    default: 'none',
    [EXPECTS]: 'an archive: write a directory, s3://bucket/prefix, hdfs://host:port/path, or none',
  })
}

const SECTIONS: Readonly<Record<EngineName, string>> = {
  s3: 'How archives in S3 are reached. Credentials come from the credential chain of the SDK, never from here.',
  hdfs: 'How archives in HDFS are reached. A delegation token comes from a file, never from here.',
  zookeeper: 'How ZooKeeper is talked to, where "metadata" names it.',
  bookkeeper: 'How bookies are talked to, where "stores" is bookkeeper.',
}

/** The section of an engine, with keys and units as in a file, or as programs write them. */
function engineSection(name: EngineName, written: Written): TSchema {
  const entries = Object.entries(ENGINE_SETTINGS[name]).map(([key, setting]): [string, TSchema] =>
    written === 'file' ? [key, settingSchema(setting)] : [setting.field, fieldSchema(setting)],
  )
  return strict(optional(Object.fromEntries(entries)), { description: SECTIONS[name] })
}

function settingSchema({ kind, description, default: builtIn }: EngineSetting): TSchema {
  const about = { description, ...(builtIn === undefined ? {} : { default: builtIn }) }
  if (typeof kind === 'object') return oneOf(kind, about)
  if (kind === 'flag') return Type.Boolean({ ...about, [EXPECTS]: 'true or false' })
  if (kind === 'count') return count(about)
  if (kind === 'size') return size('file', about)
  if (kind === 'duration') return duration('file', about)
  if (kind === 'hosts') {
    const expects = 'a list of hosts, as [nn2.example.org:9870]'
    return Type.Array(text('a host', about), { minItems: 1, ...about, [EXPECTS]: expects })
  }
  return text(kind === 'file' ? 'a file' : 'a text', about)
}

function fieldSchema(setting: EngineSetting): TSchema {
  const { kind, description } = setting
  if (kind !== 'size' && kind !== 'duration') return settingSchema(setting)
  const expects = `a whole number of ${kind === 'size' ? 'bytes' : 'milliseconds'}`
  return Type.Integer({ minimum: 0, description, [EXPECTS]: expects })
}

function quorum(description: string): TSchema {
  return strict(
    optional({
      ensemble: count({ description: 'Stores a segment is striped over. Default: as many as copies.' }),
      copies: count({ description: 'Copies of every record.', default: 3 }),
      ack: count({ description: 'Copies that are durable before an append is acknowledged.', default: 2 }),
      min: count({
        description:
          'With fewer writable stores than copies the log goes on down to this many. Default: ack.',
      }),
      group: text('a group of bookies', {
        description: 'Isolation group of bookkeeper.groups-file that every copy stays in; any: all bookies.',
        default: 'any',
      }),
    }),
    { description },
  )
}

function copyWindow(): TSchema {
  const window = strict(
    {
      cron: text('a cron expression of five fields, as "0 1-5 * * *"', {
        description:
          'Five fields: minute (0 or *), hour, day, month, weekday. Open in every hour in which it fires.',
      }),
      zone: Type.Optional(
        text('a time zone, as Europe/Berlin', {
          description: 'IANA time zone of the hours.',
          default: 'UTC',
        }),
      ),
    },
    { description: 'Hours in which copies may start.' },
  )
  return Type.Union([oneOf(['always'], { description: 'At any time.' }), window], {
    description: 'When copies may start.',
    default: 'always',
    [EXPECTS]: 'a window: write { cron: "0 1-5 * * *", zone: Europe/Berlin }, or always',
  })
}

function keep(written: Written): TSchema {
  const limits = strict(
    optional({
      for: duration(
        written,
        { description: 'Age at which history is trimmed.', default: 'forever' },
        'forever',
      ),
      max: size(
        written,
        { description: 'Bytes of a stream above which its oldest is trimmed.', default: 'unlimited' },
        'unlimited',
      ),
      by: oneOf(['completion', 'event'], {
        description: 'Age counts from when a segment was completed, or from the time of its last record.',
        default: 'completion',
      }),
    }),
    { description: 'Limits; whichever is reached first.' },
  )
  return Type.Union([oneOf(['forever'], { description: 'Nothing is ever trimmed.' }), limits], {
    description:
      'How much history is kept in both tiers together; what is older is trimmed in whole segments.',
    default: 'forever',
    [EXPECTS]: 'a retention: write forever, or { for: 90d, max: 5 TiB }',
  })
}

function hold(): TSchema {
  const position = Type.Union(
    [
      Type.String({ minLength: 1 }),
      strict({ time: text('a time', { description: 'ISO 8601, UTC.' }) }, { description: 'By time.' }),
      strict({ txid: Type.Union([Type.Integer(), Type.String()]) }, { description: 'By txid.' }),
    ],
    { [EXPECTS]: 'a position: write "12:340:7", { time: 2026-01-01T00:00:00Z } or { txid: 5 }' },
  )
  return strict(
    {
      id: text('a name', { description: 'Names the hold.' }),
      ...optional({ from: position, until: position, reason: text('a text', { description: 'Why.' }) }),
    },
    { description: 'A range of history that is not trimmed until the hold is released.' },
  )
}

/** When segments are sealed, copied, freed and trimmed. */
function lifeProperties(written: Written): Record<string, TSchema> {
  return optional({
    create: oneOf(['allow', 'refuse'], {
      description: 'Whether an append creates its stream.',
      default: 'allow',
    }),
    quorum: quorum('How many stores hold each record and how many must answer.'),
    roll: strict(
      optional({
        size: size(written, { description: 'Bytes at which the open segment is sealed.', default: '64 MiB' }),
        age: duration(written, {
          description: 'Age at which it is sealed; never above half of hot.for.',
          default: '1h',
        }),
        idle: duration(written, {
          description: 'Time without an append after which it is sealed.',
          default: '10m',
        }),
      }),
      { description: 'When the open segment is sealed: whichever comes first.' },
    ),
    copy: strict(
      optional({
        after: duration(written, {
          description: 'Time between sealed and copied to the archive.',
          default: '0s',
        }),
        window: copyWindow(),
      }),
      { description: 'When sealed segments are copied to the archive.' },
    ),
    hot: strict(
      optional({
        for: duration(
          written,
          { description: 'Time a segment stays in the hot tier.', default: '24h' },
          'forever',
        ),
        max: size(
          written,
          { description: 'Hot bytes of a stream above which its oldest is freed.', default: 'unlimited' },
          'unlimited',
        ),
      }),
      {
        description:
          'What stays on the local stores: a target, kept longer while not verified in the archive.',
      },
    ),
    evict: strict(
      optional({
        lag: duration(written, {
          description: 'Time between verified in the archive and freed.',
          default: '4h',
        }),
      }),
      { description: 'When hot copies are freed.' },
    ),
    keep: keep(written),
    'archive-down': oneOf(['hold', 'backpressure', 'drop'], {
      description:
        'While the archive does not answer: keep all hot, slow writers down, or free the oldest with a gap.',
      default: 'hold',
    }),
    scrub: strict(
      optional({
        'full-pass': duration(written, {
          description: 'Time in which every hot copy is read once, to find and mend damage; at least 1s.',
          default: '7d',
        }),
      }),
      { description: 'Reading every copy to find damage.' },
    ),
  })
}

/** How and by what means that is done. */
function meansProperties(written: Written): Record<string, TSchema> {
  return optional({
    storage: strict(
      optional({
        class: text('a storage class', {
          description: 'Storage class of objects, as GLACIER_IR, or default.',
          default: 'default',
        }),
        'kms-key': text('a key', {
          description: 'Key the object store encrypts with, or default.',
          default: 'default',
        }),
        tags: tags(),
      }),
      {
        description:
          'What is asked of the archive for each object; an engine that knows none of it ignores it.',
      },
    ),
    holds: Type.Array(hold(), {
      description: 'Ranges that must not be trimmed. They add up: no other place takes one away.',
      [EXPECTS]: 'a list of holds, as [{ id: case-4711, from: { time: 2026-01-01 } }]',
    }),
    limits: strict(
      optional({
        upload: rate({
          description: 'Bytes a second of a stream written to the archive.',
          default: 'unlimited',
        }),
        'cold-read': rate({
          description: 'Bytes a second of a stream read from the archive.',
          default: 'unlimited',
        }),
        'replica-lag': size(
          written,
          { description: 'Bytes a store may be behind its peers.', default: 'unlimited' },
          'unlimited',
        ),
      }),
      { description: 'Bandwidth.' },
    ),
    encryption: encryption(),
  })
}

function tags(): TSchema {
  const value = Type.String({
    maxLength: 256,
    [EXPECTS]: 'a text of at most 256 characters: put numbers in quotes',
  })
  return Type.Record(Type.String({ minLength: 1, maxLength: 128 }), value, {
    maxProperties: 10,
    propertyNames: { minLength: 1, maxLength: 128 },
    description: 'Tags of objects: at most 10.',
    [EXPECTS]: 'a group of at most 10 tags, as { team: audit }, each a text',
  })
}

function encryption(): TSchema {
  const keys = strict(
    optional({
      ring: text('a key ring', { description: 'Where keys are.' }),
      key: text('a key', { description: 'Key of these streams.' }),
    }),
    { description: 'Encryption of objects.' },
  )
  return Type.Union([oneOf(['none'], { description: 'Objects are stored in clear.' }), keys], {
    description: 'Encryption of objects.',
    default: 'none',
    [EXPECTS]: 'a key: write { ring: RING, key: KEY }, or none',
  })
}

function stores(): TSchema {
  const directories = Type.Array(
    text('a directory', { description: 'A directory; each is one replica node.' }),
    {
      minItems: 1,
      uniqueItems: true,
      description:
        'Directories of the hot tier, each on a disk of its own. Relative ones start at this file.',
    },
  )
  const bookies = oneOf([BOOKKEEPER], { description: 'The bookies of the cluster that "metadata" leads to.' })
  return Type.Union([bookies, directories], {
    description: 'The hot tier: directories, each on a disk of its own, or the bookies of a cluster.',
    [EXPECTS]: 'a list of different directories, as [/disk1/strata, /disk2/strata], or bookkeeper',
  })
}

const metadata = (): TSchema =>
  Type.String({
    pattern: METADATA,
    description:
      'Namespace of a cluster in ZooKeeper: zk://host:2181,host:2181/path. Without it the log is in its directory alone.',
    [EXPECTS]: 'a namespace in ZooKeeper: write zk://host:2181/path, without credentials',
  })

const policyProperties = (written: Written): Record<string, TSchema> => ({
  ...lifeProperties(written),
  ...meansProperties(written),
})

const policies = (written: Written): TSchema =>
  Type.Array(
    strict(
      {
        match: text('a pattern of stream names, as audit/** or clicks/*', {
          description: 'Streams it is for: * within a part of the name, ** across parts.',
        }),
        archive: Type.Optional(archive('Archive of these streams instead of the one of the log.')),
        ...policyProperties(written),
      },
      {
        description: 'For the streams that match. Field by field the first that matches and says it decides.',
      },
    ),
    {
      description: 'Policies by stream name, in order.',
      [EXPECTS]: 'a list of policies, each beginning with "- match:"',
    },
  )

/** stratalog.yaml. */
export const CONFIG_SCHEMA: TSchema = Type.Object(
  {
    version: Type.Integer({ enum: [...CONFIG_VERSIONS], description: 'Version of this file format: 1.' }),
    ...optional({
      archive: archive('Where sealed segments are copied to.'),
      metadata: metadata(),
      stores: stores(),
      quorum: quorum('The same as defaults.quorum, which is nearer.'),
      defaults: strict(policyProperties('file'), {
        description: 'What a stream gets unless something nearer decides.',
      }),
      policies: policies('file'),
      cache: strict(
        optional({
          disk: size('file', { description: 'Bytes of disk for what was read from the archive.' }),
          index: size('file', {
            description: 'Bytes of memory for the indexes of each store.',
            default: '32 MiB',
          }),
        }),
        { description: 'Caches of the log.' },
      ),
      s3: engineSection('s3', 'file'),
      hdfs: engineSection('hdfs', 'file'),
      zookeeper: engineSection('zookeeper', 'file'),
      bookkeeper: engineSection('bookkeeper', 'file'),
    }),
  },
  {
    $schema: 'http://json-schema.org/draft-07/schema#',
    title: 'stratalog.yaml',
    description: 'Configuration of a stratalog log: docs/configuration.md.',
    additionalProperties: false,
  },
)

/** Policies as programs write them: the same with camelCase keys. */
export const POLICY_INPUT_SCHEMA: TSchema = camelKeys(
  strict(policyProperties('code'), { description: 'A policy as programs write it.' }),
)

/** What `openLog` takes of a configuration, in camelCase. */
export const CODE_SCHEMA: TSchema = camelKeys(
  strict(
    {
      ...optional({
        archive: archive('Where sealed segments are copied to.'),
        metadata: metadata(),
        stores: stores(),
        policies: policies('code'),
        s3: engineSection('s3', 'code'),
        hdfs: engineSection('hdfs', 'code'),
        zookeeper: engineSection('zookeeper', 'code'),
        bookkeeper: engineSection('bookkeeper', 'code'),
      }),
      ...policyProperties('code'),
    },
    { description: 'Configuration in code.' },
  ),
)

function camelKeys(schema: TSchema): TSchema {
  const walk = (node: unknown): unknown => {
    if (Array.isArray(node)) return node.map(walk)
    if (typeof node !== 'object' || node === null) return node
    return Object.fromEntries(
      Object.entries(node).map(([key, value]) => {
        if (key !== 'properties') return [key, walk(value)]
        const renamed = Object.entries(value as object).map(([name, inner]) => [camelKey(name), walk(inner)])
        return [key, Object.fromEntries(renamed)]
      }),
    )
  }
  return walk(schema) as TSchema
}

/** config/stratalog.schema.json, which editors complete and check the file by. */
export function schemaText(): string {
  // Short lists stand on one line, as the formatter of this repository wants them.
  const short = /\[\s+((?:"[^"\n]*"|\d+)(?:,\s+(?:"[^"\n]*"|\d+))*)\s+\]/g
  const joined = (_: string, items: string) => `[${items.replace(/\s*\n\s*/g, ' ')}]`
  return `${JSON.stringify(CONFIG_SCHEMA, null, 2).replace(short, joined)}\n`
}
