// Gets the servers that tests run against into a cache outside the repository: built or downloaded once, pinned, and
// shared by every clone of this user.
//
//   node scripts/prepare-servers.mjs [versitygw] [hdfs] [bookkeeper] [java-clients] [ceph]     all without a name
//
//   versitygw 1.8.0   `go install`: two or three minutes of compiling on a new machine; needs Go
//   hdfs 3.4.3        jars of Maven Central, 65 MB; needs Java 17 and Maven
//   bookkeeper 4.17.3 jars of Maven Central, 105 MB: bookies, ZooKeeper 3.9.3 and the original clients of BookKeeper
//                     and DistributedLog; needs Java 17 and Maven
//   java-clients      test/java, this project's programs on those clients, compiled; needs a JDK too
//   ceph              installed as packages of the system, only looked for:
//                     apt-get install --no-install-recommends ceph-mon ceph-osd radosgw ceph-common
//
// The cache is ${STRATALOG_TEST_SERVERS:-${XDG_CACHE_HOME:-~/.cache}/stratalog-test-servers}. Each server's last line
// on stdout is `NAME PATH`; what is missing is one line on stderr, and the exit code is 1.
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { homedir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import process from 'node:process'

const VERSITYGW = '1.8.0'
const HADOOP = '3.4.3'
const BOOKKEEPER = '4.17.3'
const JAVA_SOURCES = join(import.meta.dirname, '..', 'test', 'java')
const MINUTE = 60_000
const CEPH = ['ceph-mon', 'ceph-osd', 'radosgw', 'radosgw-admin', 'ceph', 'ceph-authtool', 'monmaptool']

const cache =
  process.env.STRATALOG_TEST_SERVERS ??
  join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'stratalog-test-servers')

class Missing extends Error {}

const found = (program) =>
  (process.env.PATH ?? '')
    .split(delimiter)
    .map((directory) => join(directory, program))
    .find((path) => existsSync(path))

function need(program, advice) {
  const path = found(program)
  if (path === undefined) throw new Missing(`${program} is not installed (${advice})`)
  return path
}

function run(program, args, options = {}) {
  const done = spawnSync(program, args, { encoding: 'utf8', timeout: 15 * MINUTE, ...options })
  if (done.error !== undefined) throw new Missing(`${program} failed: ${done.error.message}`)
  if (done.status !== 0)
    throw new Missing(`${program} failed: ${`${done.stdout}${done.stderr}`.trim().slice(-800)}`)
  return `${done.stdout}${done.stderr}`
}

/** Makes what belongs at `path` beside it and names it when it is whole: a build that dies leaves nothing in its place. */
function make(path, fill) {
  const temporary = mkdtempSync(`${path}.tmp-`)
  try {
    fill(temporary)
    if (!existsSync(path)) renameSync(temporary, path)
  } finally {
    rmSync(temporary, { recursive: true, force: true })
  }
}

function versitygw() {
  const directory = join(cache, `versitygw-${VERSITYGW}`)
  if (!existsSync(directory)) {
    need('go', 'apt-get install golang, or https://go.dev/dl')
    process.stderr.write(`building versitygw ${VERSITYGW}: this takes minutes, once\n`)
    make(directory, (GOBIN) => {
      run('go', ['install', `github.com/versity/versitygw/cmd/versitygw@v${VERSITYGW}`], {
        env: { ...process.env, GOBIN },
      })
    })
  }
  return join(directory, 'versitygw')
}

/** A program of the Java installation, `java` or `javac`. */
function javaProgram(name) {
  const home = process.env.JAVA_HOME
  if (home !== undefined) return join(home, 'bin', name)
  const packages = { java: 'openjdk-17-jre-headless', javac: 'openjdk-17-jdk-headless' }
  return need(name, `apt-get install ${packages[name]}`)
}

function needJava() {
  const version = Number(/version "(\d+)/.exec(run(javaProgram('java'), ['-version']))?.[1])
  if (!(version >= 17)) throw new Missing(`Java 17 or later is needed, this is ${version}`)
}

/** Gets jars of Maven Central, with what they need, into one directory; `GROUP:ARTIFACT:VERSION` each. */
function jars(name, about, artifacts) {
  needJava()
  const directory = join(cache, name)
  if (!existsSync(directory)) {
    need('mvn', 'apt-get install maven')
    process.stderr.write(`fetching the jars of ${about}, once\n`)
    make(directory, (to) => {
      writeFileSync(join(to, 'pom.xml'), pom(artifacts))
      run('mvn', [
        ...['-B', '-ntp', '-q', '--strict-checksums', '-f', join(to, 'pom.xml')],
        'org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies',
        ...['-DincludeScope=runtime', `-DoutputDirectory=${to}`],
      ])
    })
  }
  return directory
}

function pom(artifacts) {
  const dependencies = artifacts.map((artifact) => {
    const [group, name, version] = artifact.split(':')
    return `<dependency><groupId>${group}</groupId><artifactId>${name}</artifactId><version>${version}</version></dependency>`
  })
  return `<project><modelVersion>4.0.0</modelVersion><groupId>stratalog</groupId><artifactId>test-servers</artifactId>
<version>1</version><packaging>pom</packaging><dependencies>${dependencies.join('')}</dependencies></project>\n`
}

/** hadoop-hdfs-client has to be named: hadoop-hdfs has it in scope `provided`. */
function hdfs() {
  const names = ['hadoop-common', 'hadoop-hdfs', 'hadoop-hdfs-client']
  return jars(
    `hdfs-${HADOOP}`,
    `HDFS ${HADOOP}: 65 MB`,
    names.map((name) => `org.apache.hadoop:${name}:${HADOOP}`),
  )
}

/** metrics-core and snappy-java have to be named: ZooKeeper does not start without, and has them in scope `provided`. */
function bookkeeper() {
  return jars(`bookkeeper-${BOOKKEEPER}`, `BookKeeper ${BOOKKEEPER} and ZooKeeper: 105 MB`, [
    `org.apache.distributedlog:distributedlog-core:${BOOKKEEPER}`,
    `org.apache.bookkeeper:bookkeeper-server:${BOOKKEEPER}`,
    'io.dropwizard.metrics:metrics-core:4.1.12.1',
    'org.xerial.snappy:snappy-java:1.1.10.5',
  ])
}

/** Kept by what the sources say: clones with other sources have their own, and nobody runs what is old. */
function javaClients() {
  const classPath = join(bookkeeper(), '*')
  const sources = readdirSync(JAVA_SOURCES)
    .filter((name) => name.endsWith('.java'))
    .sort()
    .map((name) => join(JAVA_SOURCES, name))
  const hash = createHash('sha256')
  for (const source of sources) hash.update(readFileSync(source))
  const directory = join(cache, `java-clients-${BOOKKEEPER}-${hash.digest('hex').slice(0, 16)}`)
  if (!existsSync(directory)) {
    const compile = ['--release', '17', '-nowarn', '-proc:none', '-cp', classPath]
    make(directory, (to) => run(javaProgram('javac'), [...compile, '-d', to, ...sources]))
  }
  return directory
}

function ceph() {
  const advice = 'apt-get install --no-install-recommends ceph-mon ceph-osd radosgw ceph-common'
  return dirname(CEPH.map((program) => need(program, advice)).at(-1))
}

const SERVERS = { versitygw, hdfs, bookkeeper, 'java-clients': javaClients, ceph }
const LOCKED = 'STRATALOG_TEST_SERVERS_LOCKED'

function main(names) {
  const unknown = names.find((name) => SERVERS[name] === undefined)
  if (unknown !== undefined) throw new Missing(`${unknown} is none of ${Object.keys(SERVERS).join(', ')}`)
  mkdirSync(cache, { recursive: true })
  // One at a time: a second caller waits for what the first one builds. Without flock both build, and one is kept.
  if (process.env[LOCKED] === undefined && found('flock') !== undefined) {
    const lock = ['-o', '-w', '1800', join(cache, '.lock'), process.execPath, process.argv[1], ...names]
    const env = { ...process.env, [LOCKED]: '1' }
    return spawnSync('flock', lock, { stdio: 'inherit', env }).status ?? 1
  }
  let failed = 0
  for (const name of names) {
    try {
      process.stdout.write(`${name} ${SERVERS[name]()}\n`)
    } catch (error) {
      if (!(error instanceof Missing)) throw error
      process.stderr.write(`${name}: ${error.message}\n`)
      failed = 1
    }
  }
  return failed
}

process.exitCode = main(process.argv.length > 2 ? process.argv.slice(2) : Object.keys(SERVERS))
