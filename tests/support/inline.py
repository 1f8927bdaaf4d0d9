"""Spark's part played in this process: the job's own code, task after task, without a JVM.

For tests that need thousands of runs. What is true of Spark itself (shipping, retries, several workers) is tested
with Spark.
"""


class Rows:
    "An RDD in memory. Nothing is computed before it is collected; what is persisted is computed once"

    def __init__(self, compute): self.compute, self.kept, self.persisted = compute, None, False

    def parts(self):
        if self.kept is not None: return self.kept
        parts = self.compute()
        if self.persisted: self.kept = parts
        return parts

    def each(self, work): return Rows(lambda: [list(work(part)) for part in self.parts()])
    def flatMap(self, work): return self.each(lambda part: (row for item in part for row in work(item)))
    def mapPartitions(self, work): return self.each(lambda part: work(iter(part)) or ())
    def values(self): return self.each(lambda part: (value for _, value in part))
    def collect(self): return [row for part in self.parts() for row in part]

    def partitionBy(self, count, place):
        def compute():
            parts = [[] for _ in range(count)]
            for part in self.parts():
                for key, value in part:
                    parts[place(key) % count].append((key, value))
            return parts
        return Rows(compute)

    def persist(self, level=None):
        self.persisted = True
        return self

    def unpersist(self): self.kept, self.persisted = None, False


class Context:
    defaultParallelism = 2

    def parallelize(self, items, count): return Rows(lambda: [[item] for item in items])


class Inline:
    sparkContext = Context()


def inline(): return Inline()
