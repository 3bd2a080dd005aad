"""The functions that `code` asks for, each with calls and what they must give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, eq=False)  # each is itself alone: values have no hash
class FunctionProblem:
    """A function to be written.

    Attributes:
        signature: Its head without the colon.
        task: What it does, a sentence or two.
        checks: Calls, each with the value that JSON has of what it must give.
    """

    signature: str
    task: str
    checks: tuple[tuple[str, Any], ...]

    @property
    def name(self) -> str:
        """Of the function."""
        return self.signature.removeprefix("def ").partition("(")[0]


def _problem(signature: str, task: str, **checks: Any) -> FunctionProblem:
    return FunctionProblem(f"def {signature}", task, tuple(checks["calls"].items()))


PROBLEMS: tuple[FunctionProblem, ...] = (
    _problem(
        "add(a, b)",
        "Return the sum of two numbers.",
        calls={"add(2, 3)": 5, "add(-4, 4)": 0, "add(0.5, 0.25)": 0.75},
    ),
    _problem(
        "is_even(n)",
        "Return True if the integer n is even, else False.",
        calls={"is_even(4)": True, "is_even(7)": False, "is_even(0)": True, "is_even(-3)": False},
    ),
    _problem(
        "largest(numbers)",
        "Return the largest number of a list, or None if the list is empty.",
        calls={"largest([3, 9, 2])": 9, "largest([-5, -2])": -2, "largest([])": None},
    ),
    _problem(
        "backwards(text)",
        "Return the text with its characters in reverse order.",
        calls={"backwards('kanna')": "annak", "backwards('')": "", "backwards('a b')": "b a"},
    ),
    _problem(
        "count_vowels(text)",
        "Return how many letters of the text are vowels (a, e, i, o, u), in either case.",
        calls={"count_vowels('Apple pie')": 4, "count_vowels('rhythm')": 0, "count_vowels('')": 0},
    ),
    _problem(
        "factorial(n)",
        "Return the product of all integers from 1 to n; 1 for n = 0.",
        calls={"factorial(0)": 1, "factorial(1)": 1, "factorial(6)": 720},
    ),
    _problem(
        "fibonacci(n)",
        "Return the Fibonacci number n, where fibonacci(0) is 0 and fibonacci(1) is 1.",
        calls={"fibonacci(0)": 0, "fibonacci(1)": 1, "fibonacci(10)": 55},
    ),
    _problem(
        "is_prime(n)",
        "Return True if the integer n is a prime number, else False.",
        calls={
            "is_prime(2)": True,
            "is_prime(1)": False,
            "is_prime(9)": False,
            "is_prime(97)": True,
            "is_prime(0)": False,
        },
    ),
    _problem(
        "is_palindrome(text)",
        "Return True if the text reads the same backwards, where only letters count and upper "
        "and lower case are the same.",
        calls={
            "is_palindrome('Never odd or even')": True,
            "is_palindrome('kanna')": False,
            "is_palindrome('')": True,
        },
    ),
    _problem(
        "without_duplicates(items)",
        "Return a list of the items without repetitions, in the order of their first appearance.",
        calls={
            "without_duplicates([3, 1, 3, 2, 1])": [3, 1, 2],
            "without_duplicates([])": [],
            "without_duplicates(['b', 'a', 'b'])": ["b", "a"],
        },
    ),
    _problem(
        "word_counts(text)",
        "Return a dictionary of how often each word of the text appears; words are separated by "
        "spaces.",
        calls={"word_counts('a b a')": {"a": 2, "b": 1}, "word_counts('')": {}},
    ),
    _problem(
        "greatest_common_divisor(a, b)",
        "Return the greatest common divisor of two positive integers.",
        calls={
            "greatest_common_divisor(12, 18)": 6,
            "greatest_common_divisor(7, 5)": 1,
            "greatest_common_divisor(8, 8)": 8,
        },
    ),
    _problem(
        "mean(numbers)",
        "Return the arithmetic mean of a list of numbers, or 0 if the list is empty.",
        calls={"mean([1, 2, 3, 4])": 2.5, "mean([7])": 7, "mean([])": 0},
    ),
    _problem(
        "second_largest(numbers)",
        "Return the second largest of the different values in a list, or None if there is none.",
        calls={
            "second_largest([5, 1, 5, 3])": 3,
            "second_largest([2, 2])": None,
            "second_largest([-1, -2])": -2,
        },
    ),
    _problem(
        "flatten(rows)",
        "Return one list with the items of all lists in rows, in order.",
        calls={"flatten([[1, 2], [], [3]])": [1, 2, 3], "flatten([])": []},
    ),
    _problem(
        "to_binary(n)",
        "Return the binary digits of an integer n >= 0 as a string without a prefix.",
        calls={"to_binary(0)": "0", "to_binary(5)": "101", "to_binary(64)": "1000000"},
    ),
    _problem(
        "balanced(text)",
        "Return True if every round, square and curly bracket of the text is closed by one of its "
        "kind in the right order, else False.",
        calls={
            "balanced('(a[b]{c})')": True,
            "balanced('(]')": False,
            "balanced('((')": False,
            "balanced(')(')": False,
            "balanced('')": True,
        },
    ),
    _problem(
        "caesar(text, shift)",
        "Return the text with every lower-case letter moved by shift places in the alphabet, "
        "around its end; other characters stay.",
        calls={"caesar('xyz!', 3)": "abc!", "caesar('ab c', 1)": "bc d", "caesar('b', -2)": "z"},
    ),
    _problem(
        "roman(n)",
        "Return the Roman numeral of an integer from 1 to 3999.",
        calls={"roman(4)": "IV", "roman(1994)": "MCMXCIV", "roman(58)": "LVIII"},
    ),
    _problem(
        "run_lengths(text)",
        "Return a list of [character, count] pairs of the runs of equal characters in the text.",
        calls={"run_lengths('aabccc')": [["a", 2], ["b", 1], ["c", 3]], "run_lengths('')": []},
    ),
    _problem(
        "merge_sorted(a, b)",
        "Return one sorted list of the numbers in two sorted lists.",
        calls={
            "merge_sorted([1, 4], [2, 3, 9])": [1, 2, 3, 4, 9],
            "merge_sorted([], [5])": [5],
            "merge_sorted([1], [1])": [1, 1],
        },
    ),
    _problem(
        "transpose(rows)",
        "Return the transpose of a matrix that is given as a list of rows of equal length.",
        calls={
            "transpose([[1, 2, 3], [4, 5, 6]])": [[1, 4], [2, 5], [3, 6]],
            "transpose([[7]])": [[7]],
        },
    ),
    _problem(
        "anagrams(a, b)",
        "Return True if both texts have the same letters equally often, without regard to spaces "
        "and to upper and lower case.",
        calls={
            "anagrams('Dormitory', 'dirty room')": True,
            "anagrams('aab', 'abb')": False,
            "anagrams('', '')": True,
        },
    ),
    _problem(
        "digit_sum(n)",
        "Return the sum of the decimal digits of an integer, whatever its sign.",
        calls={"digit_sum(493)": 16, "digit_sum(-12)": 3, "digit_sum(0)": 0},
    ),
)
