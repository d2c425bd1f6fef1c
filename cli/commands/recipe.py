"""`compressor recipe`: what a recipe may hold."""

from __future__ import annotations

from typing import Annotated

import typer


def recipe(
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema.")] = False,
    example: Annotated[bool, typer.Option("--example", help="Print a commented recipe with every default.")] = False,
) -> None:
    """Print the schema of recipes, or a commented example."""
    from cli.printing import print_json
    from compressor.recipe import Recipe
    from compressor.recipe_file import example_recipe
    from serving.errors import UserError

    if schema == example:
        raise UserError("recipe prints one of two things. Give --example or --schema.")
    if schema:
        print_json(Recipe.model_json_schema())
    else:
        typer.echo(example_recipe(), nl=False)
