import torch

from service.theory import smooth_mean
from service.theory.smooth_mean import mean_of_smooth


def spread(count, seed=0):
    """Correlated points with x in [−3, 5] and y in [0, 2]."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, dtype=torch.float64, generator=generator)
    y = (x + torch.rand(count, dtype=torch.float64, generator=generator)).sqrt()
    return 8 * x - 3, y


def test_polynomials_are_exact():
    """Polynomials of low degree have their mean to rounding, each function its own."""
    x, y = spread(1009)
    mean = mean_of_smooth(
        lambda u, v: torch.stack(((u**3)[:, None] * v**2, u[:, None] - v**5)), x, y
    )
    expected = torch.stack(((x**3 * y**2).mean(), (x - y**5).mean()))
    torch.testing.assert_close(mean, expected, rtol=1e-12, atol=0)


def test_the_degree_follows_the_function():
    """A function that needs a high degree in one variable only gets it there only, to 1e-6."""
    asked = []

    def steep(u, v):
        asked.append((len(u), len(v)))
        return (1 / (1 + 4 * u**2))[:, None] * (1 + v)[None] * torch.ones(1, 1, 1)

    x, y = spread(1009)
    expected = ((1 + y) / (1 + 4 * x**2)).mean()
    torch.testing.assert_close(mean_of_smooth(steep, x, y)[0], expected, rtol=1e-6, atol=0)
    assert asked[0] == (9, 9)
    assert asked[-1][0] > 33
    assert asked[-1][1] == 9


def test_an_odd_function_is_followed_too():
    """A zero at every second order is not taken for convergence."""
    x = torch.linspace(-1, 1, 1009, dtype=torch.float64)
    x[500:] = 0.7
    x[-1] = 1.0
    mean = mean_of_smooth(lambda u, v: ((4 * u).atan()[:, None] + 0 * v)[None], x, 0 * x)
    torch.testing.assert_close(mean[0], (4 * x).atan().mean(), rtol=1e-5, atol=0)


def test_the_transform_finds_each_polynomial():
    """The values of T_k at the nodes transform into coefficient 1 at k and 0 elsewhere."""
    nodes = smooth_mean._Axis(-1.0, 1.0).nodes(7)
    found = smooth_mean._transform(7) @ smooth_mean._polynomials(nodes, 8).T
    torch.testing.assert_close(found, torch.eye(8, dtype=torch.float64), rtol=0, atol=1e-14)


def test_few_points_of_large_value_do_not_spoil_the_rest():
    """The error is bounded against the mean, though one point in 1000 has 1e6 times the value."""
    x = torch.zeros(1000, dtype=torch.float64)
    x[::2], x[-1] = 0.3, 14.0
    mean = mean_of_smooth(lambda u, v: (u.exp()[:, None] + 0 * v)[None], x, torch.zeros_like(x))
    torch.testing.assert_close(mean[0], x.exp().mean(), rtol=1e-6, atol=0)
    x[-1] = 0.0
    x[17] = 14.0  # not among the sample that gives the scale
    mean = mean_of_smooth(lambda u, v: (u.exp()[:, None] + 0 * v)[None], x, torch.zeros_like(x))
    torch.testing.assert_close(mean[0], x.exp().mean(), rtol=1e-6, atol=0)


def test_an_axis_of_one_value_is_evaluated_there():
    """Where x or y is constant, the function is asked at that value alone."""
    x, _ = spread(1009)
    seen = []

    def function(u, v):
        seen.append(v.tolist())
        return (u[:, None] * v)[None]

    mean = mean_of_smooth(function, x, torch.full_like(x, 0.1))
    assert seen == [[0.1]]
    torch.testing.assert_close(mean[0], 0.1 * x.mean(), rtol=1e-13, atol=0)


def test_condensed_points_keep_count_mean_and_covariance():
    """Four points a cell have the number, the mean and the covariance of all points together."""
    x, y = (axis - 1 for axis in spread(300_007))
    x = x / 4
    points = smooth_mean._condensed(x, y)
    assert len(points.x) < len(x)

    def moments(u, v, weight):
        summands = (torch.ones_like(u), u, v, u * u, u * v, v * v)
        return torch.stack([(weight * summand).sum() for summand in summands])

    torch.testing.assert_close(
        moments(*points), moments(x, y, torch.ones_like(x)), rtol=1e-10, atol=1e-6
    )


def test_condensing_keeps_the_mean_of_a_smooth_function(monkeypatch):
    """Over more points than are kept one by one, the mean agrees with the plain one to 1e-6."""
    x, y = spread(smooth_mean._FEW_POINTS + 1)
    kept, condensed = [], smooth_mean._condensed
    monkeypatch.setattr(
        smooth_mean, "_condensed", lambda u, v: kept.append(len(u)) or condensed(u, v)
    )
    mean = mean_of_smooth(lambda u, v: torch.exp(u[:, None] * v / 3)[None], x, y)
    torch.testing.assert_close(mean[0], torch.exp(x * y / 3).mean(), rtol=1e-6, atol=0)
    assert kept == [len(x)]
