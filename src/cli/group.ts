import type { Command } from 'commander'

/** The group of commands of that name, made by whichever of its files comes first. */
export function groupOf(program: Command, name: string, description: string): Command {
  const there = program.commands.find((command) => command.name() === name)
  return there ?? program.command(name).description(description)
}
