"""An agent with Python functions: it looks things up in a small shop and may order more.

    python examples/agent.py demo "What is the price of Oslo?"
    python examples/agent.py openai/gpt-oss-20b "Order five more of what is running out."

What the model may call are ordinary functions: their names, type hints and docstrings are what it
is shown, and `llm.run` calls them until there is an answer. An error that a function raises is told
to the model, which may try again. What changes something asks the person first (`--yes` allows it).
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import Any

import gptoss

PRICES = {"Oslo": 249, "Lima": 180, "Kyoto": 75}
STOCK = {"Oslo": 12, "Lima": 2, "Kyoto": 40}


class Shop:
    """Chairs by name; the model sees the three methods below."""

    def __init__(self, *, ask_first: bool) -> None:
        self._ask_first = ask_first
        self._stock = dict(STOCK)

    def get_price(self, product: str) -> int:
        """Get the price of a product.

        Args:
            product: Name of the product.
        """
        self._check(product)
        return PRICES[product]

    def get_stock(self, product: str) -> int:
        """Get the stock of a product.

        Args:
            product: Name of the product.
        """
        self._check(product)
        return self._stock[product]

    def order(self, product: str, count: int) -> str:
        """Order more of a product.

        Args:
            product: Name of the product.
            count: How many to order, from 1 to 100.
        """
        self._check(product)
        if not 1 <= count <= 100:
            raise ValueError(f"count must be from 1 to 100, got {count}")
        if self._ask_first and input(f"Order {count} of {product}? [y/N] ").lower() != "y":
            return "The person has refused this order."
        self._stock[product] += count
        return f"ordered {count}"

    def _check(self, product: str) -> None:
        if product not in PRICES:
            raise LookupError(f"there is no product {product!r}; there are {', '.join(PRICES)}")


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which prints how it is called and what it returns."""

    @functools.wraps(function)  # keeps what the model is shown: name, hints and docstring
    def call(**arguments: Any) -> Any:
        shown = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        try:
            result = function(**arguments)
        except Exception as error:
            print(f"  {function.__name__}({shown}): {error}")
            raise
        print(f"  {function.__name__}({shown}) = {result!r}")
        return result

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help='"demo", a Hub id or a folder')
    parser.add_argument("task")
    parser.add_argument("--yes", action="store_true", help="order without asking")
    parser.add_argument("--effort", choices=("low", "medium", "high"), default="medium")
    parser.add_argument("--max-steps", type=int, default=8, help="most calls and answers")
    args = parser.parse_args()

    shop = Shop(ask_first=not args.yes)
    with gptoss.load(args.model) as llm:
        result = llm.run(
            args.task,
            tools=[traced(shop.get_price), traced(shop.get_stock), traced(shop.order)],
            max_steps=args.max_steps,
            reasoning_effort=args.effort,
            temperature=0,
        )
    if result.finish_reason != "stop":
        raise SystemExit(f"No answer after {args.max_steps} steps ({result.finish_reason}).")
    print(result.text)


if __name__ == "__main__":
    main()
