"""Spark's part played in this process: the job's own code, task after task, without a JVM.

For tests that need thousands of runs. What is true of Spark itself (shipping, retries, several workers) is tested with Spark.
"""


class Rows:
    "An RDD in memory, in partitions"

    def __init__(self, parts): self.parts = parts
    def flatMap(self, work): return Rows([[row for item in part for row in work(item)] for part in self.parts])
    def mapPartitions(self, work): return Rows([list(work(iter(part)) or ()) for part in self.parts])
    def values(self): return Rows([[value for _, value in part] for part in self.parts])
    def persist(self, level=None): return self
    def unpersist(self): return self
    def collect(self): return [row for part in self.parts for row in part]

    def partitionBy(self, count, place):
        parts = [[] for _ in range(count)]
        for part in self.parts:
            for key, value in part:
                parts[place(key) % count].append((key, value))
        return Rows(parts)


class Context:
    defaultParallelism = 2

    def parallelize(self, items, count): return Rows([[item] for item in items])


class Inline:
    sparkContext = Context()


def inline(): return Inline()
