"""Twenty functions with a seeded bug each, and the tests that they fail; the first ten raise an error.

They were written when the search was done, before it was run on any of them, with one bug for each that it was
developed on (`bugs_seen`): of the same kind, in another function.
"""

import textwrap
from typing import Any, NamedTuple


class Bug(NamedTuple):
    """A function that is wrong in one place.

    Parameters
    ----------
    source
        Its source.
    tests
        Arguments and the result that is right.
    right
        The source without the bug; empty where it is not kept.
    """

    source: str
    tests: list[tuple[tuple[Any, ...], Any]]
    right: str = ""

    @property
    def name(self) -> str:
        """The function's name."""
        return self.source.split("(")[0].removeprefix("def ").strip()


def _bug(right: str, was: str, becomes: str, *tests: tuple[tuple[Any, ...], Any]) -> Bug:
    right = textwrap.dedent(right).strip()
    if right.count(was) != 1:
        raise ValueError(
            f"was is {was!r}, which the source has {right.count(was)} times; it takes a part that is there once"
        )
    return Bug(right.replace(was, becomes), list(tests), right)


RAISING = [
    _bug(
        """
        def lagged_changes(values, lag):
            changes = []
            start = lag
            for i in range(start, len(values)):
                changes.append(values[i] - values[i - lag])
            return changes
        """,
        "values[i - lag]",
        "values[i + lag]",
        (([1, 4, 9, 16], 1), [3, 5, 7]),
        (([1, 2, 4, 8], 2), [3, 6]),
        (([5], 1), []),
    ),
    _bug(
        """
        def longest_run(items):
            best = 1
            current = 1
            for i in range(len(items) - 1):
                if items[i] == items[i + 1]:
                    current = current + 1
                    best = max(best, current)
                else:
                    current = 1
            return best
        """,
        "range(len(items) - 1)",
        "range(len(items))",
        (([1, 1, 2],), 2),
        (([3, 3, 3],), 3),
        (([1, 2],), 1),
    ),
    _bug(
        """
        def parts_of_product(values):
            product = 1
            for value in values:
                product = product * value
            parts = []
            for value in values:
                parts.append(round(value / product, 6))
            return parts
        """,
        "product = 1\n",
        "product = 0\n",
        (([1, 2],), [0.5, 1.0]),
        (([2, 5],), [0.2, 0.5]),
        (([4],), [1.0]),
    ),
    _bug(
        """
        def matrix_times_vector(rows, vector):
            product = []
            for i in range(len(rows)):
                total = 0
                for j in range(len(vector)):
                    total = total + rows[i][j] * vector[j]
                product.append(total)
            return product
        """,
        "* vector[j]",
        "* vector[i]",
        (([[1, 2, 3]], [1, 1, 1]), [6]),
        (([[1, 0], [0, 1], [2, 2]], [3, 4]), [3, 4, 14]),
        (([[2]], [5]), [10]),
    ),
    _bug(
        """
        def last_index(items, wanted):
            position = len(items) - 1
            while position >= 0:
                if items[position] == wanted:
                    return position
                position = position - 1
            return -1
        """,
        "position = len(items) - 1",
        "position = len(items)",
        (([1, 2, 1], 1), 2),
        (([4], 5), -1),
        (([], 1), -1),
    ),
    _bug(
        """
        def group_by_length(words):
            groups = {}
            for word in words:
                size = len(word)
                if size not in groups:
                    groups[size] = [word]
                else:
                    groups[size].append(word)
            return groups
        """,
        "size not in groups",
        "size in groups",
        ((["a", "bb", "c"],), {1: ["a", "c"], 2: ["bb"]}),
        ((["one"],), {3: ["one"]}),
        (([],), {}),
    ),
    _bug(
        """
        def trapezoid_area(heights, width):
            last = len(heights) - 1
            area = (heights[0] + heights[last]) / 2
            for k in range(1, last):
                area = area + heights[k]
            return area * width
        """,
        "heights[last]",
        "heights[last + 1]",
        (([0, 1, 2], 1), 2.0),
        (([1, 1], 3), 3.0),
        (([2, 4, 6, 8], 2), 30.0),
    ),
    _bug(
        """
        def top_values(values, count):
            ordered = sorted(values)
            if count > len(ordered):
                count = len(ordered)
            top = []
            for k in range(count):
                top.append(ordered[len(ordered) - 1 - k])
            return top
        """,
        "count > len(ordered)",
        "count < len(ordered)",
        (([3, 1, 2], 2), [3, 2]),
        (([1], 3), [1]),
        (([5, 4], 2), [5, 4]),
    ),
    _bug(
        """
        def geometric_mean(values):
            total = 0.0
            count = 0
            for value in values:
                if value > 0:
                    total = total + math.log(value)
                    count = count + 1
            if count == 0:
                return 0.0
            return round(math.exp(total / count), 6)
        """,
        "value > 0",
        "value >= 0",
        (([1, 4, 0],), 2.0),
        (([3],), 3.0),
        (([0],), 0.0),
    ),
    _bug(
        """
        def bill(items):
            total = 0
            lines = 0
            for item in items:
                name = item[0]
                price = item[1]
                amount = item[2]
                if name != "":
                    total = total + price * amount
                    lines = lines + 1
            return [lines, total]
        """,
        "price * amount",
        "name * amount",
        (([["tea", 3, 2], ["", 9, 9]],), [1, 6]),
        (([["a", 1, 1], ["b", 2, 2]],), [2, 5]),
        (([],), [0, 0]),
    ),
]
WRONG = [
    _bug(
        """
        def power(base, exponent):
            result = 1
            while exponent > 0:
                if exponent % 2 == 1:
                    result = result * base
                base = base * base
                exponent = exponent // 2
            return result
        """,
        "base * base",
        "base + base",
        ((2, 5), 32),
        ((3, 2), 9),
        ((5, 0), 1),
    ),
    _bug(
        """
        def running_maximum(values):
            best = values[0]
            found = []
            for value in values:
                if value > best:
                    best = value
                found.append(best)
            return found
        """,
        "found.append(best)",
        "found.append(value)",
        (([1, 3, 2],), [1, 3, 3]),
        (([5],), [5]),
        (([2, 1],), [2, 2]),
    ),
    _bug(
        """
        def count_changes(items):
            count = 0
            for i in range(1, len(items)):
                if items[i] != items[i - 1]:
                    count = count + 1
            return count
        """,
        "items[i] != items",
        "items[i] == items",
        (([1, 1, 2],), 1),
        (([1, 2, 3],), 2),
        (([4],), 0),
    ),
    _bug(
        """
        def city_distance(start, end):
            total = 0
            for i in range(len(start)):
                step = abs(start[i] - end[i])
                total = total + step
            return total
        """,
        "start[i] - end[i]",
        "start[i] + end[i]",
        (([0, 0], [3, 4]), 7),
        (([1, 1], [1, 1]), 0),
        (([5], [2]), 3),
    ),
    _bug(
        """
        def shortest(words):
            best = words[0]
            for word in words:
                if len(word) < len(best):
                    best = word
            return best
        """,
        "len(word) < len(best)",
        "len(word) > len(best)",
        ((["pear", "fig", "melon"],), "fig"),
        ((["a", "bb"],), "a"),
        ((["x"],), "x"),
    ),
    _bug(
        """
        def divisors(n):
            found = []
            for candidate in range(1, n + 1):
                if n % candidate == 0:
                    found.append(candidate)
            return found
        """,
        "range(1, n + 1)",
        "range(2, n + 1)",
        ((6,), [1, 2, 3, 6]),
        ((7,), [1, 7]),
        ((1,), [1]),
    ),
    _bug(
        """
        def count_at_least(values, limit):
            count = 0
            for value in values:
                if value >= limit:
                    count = count + 1
            return count
        """,
        "value >= limit",
        "value > limit",
        (([1, 2, 3], 2), 2),
        (([5], 5), 1),
        (([], 1), 0),
    ),
    # The next two need more than one small change; they are there since real bugs do.
    _bug(
        """
        def triangle_kind(a, b, c):
            if a == b and b == c:
                return "equilateral"
            if a == b or b == c or a == c:
                return "isosceles"
            return "scalene"
        """,
        "if a == b or b == c or a == c:",
        "if a == b:",
        ((2, 2, 2), "equilateral"),
        ((2, 2, 3), "isosceles"),
        ((3, 2, 2), "isosceles"),
        ((2, 3, 2), "isosceles"),
        ((2, 3, 4), "scalene"),
    ),
    _bug(
        """
        def middle_pair(values):
            ordered = sorted(values)
            half = len(ordered) // 2
            return [ordered[half - 1], ordered[half]]
        """,
        "[ordered[half - 1], ordered[half]]",
        "[ordered[half], ordered[half + 1]]",
        (([4, 1, 3, 2],), [2, 3]),
        (([6, 5, 4, 3, 2, 1],), [3, 4]),
        (([1, 1, 2, 2],), [1, 2]),
    ),
    _bug(
        """
        def rescaled(values):
            least = min(values)
            most = max(values)
            scaled = []
            for value in values:
                scaled.append((value - least) / (most - least))
            return scaled
        """,
        "(value - least)",
        "(value - most)",
        (([0, 5, 10],), [0.0, 0.5, 1.0]),
        (([2, 4],), [0.0, 1.0]),
        (([1, 3, 2],), [0.0, 1.0, 0.5]),
    ),
]
BUGS = [*RAISING, *WRONG]
