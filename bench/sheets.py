"""What the tables of docs/results/ compare: for each, a scenario, methods at their defaults or presets, seeds and a note."""

from dataclasses import dataclass

from unlearn.registry import fitting, methods

DEFAULTS = "Mean ± half-width of the 95 % t-interval over three seeds. Methods at their defaults"
TUNED = f"{DEFAULTS}, which were tuned on digits and on nothing else."
PUBLISHED = (
    "Every method at its first preset, the setting that its authors or a benchmark published, mostly for networks and data sets "
    "a hundred times as large. Mean ± half-width of the 95 % t-interval over three seeds."
)
VALUES = (
    f"{DEFAULTS}; errors are mean absolute ones, in the unit of the targets. The request forgets all training examples whose "
    "target lies in the range."
)
CAPACITY = ("deletion-capacity/deletions",)
EXACT = (
    "The original is trained so that examples can be deleted from it exactly. Mean ± half-width of the 95 % t-interval over "
    "three seeds."
)
RECORDED = (
    "The original is trained with a record of what every step changed, so that amnesiac-true can subtract steps; amnesiac, which "
    f"relabels, needs none. {DEFAULTS}."
)
HOLE = (
    f"A hole in the centre of each digit is filled in. {DEFAULTS}, which are tuned on classifiers but for i2i's, or at a preset, "
    "which is a baseline of I2I or its published setting."
)
DRAWN = f"A class-conditional diffusion model draws digits, ten of each, and a judge looks at them. {DEFAULTS}, or at a preset."
LENT = (
    "The original is a pretrained network whose training recipe is unknown, so there is no oracle and the scores that need one "
    "cannot tell."
)
CORE = ("retrain", "none", "finetune", "neggrad-plus", "salun", "ssd", "duck", "scar", "scrub")
SEVEN = tuple(m for m in CORE if m not in ("retrain", "scrub"))
FIVE = ("none", "salun", "ssd", "duck", "scar")
REGRESSING = (
    "retrain", "none", "finetune", "neggrad-plus", "random-labels", "salun", "gaussian-amnesiac", "blindspot",
)  # fmt: skip
I2I = [("i2i", p) for p in ("max-loss", "noisy-label", "retain-label", "random-encoder")]
DRAWING = ("none", "finetune", "salun", ("salun", "ddpm"), "esd", "i2i-diffusion", ("i2i-diffusion", "paper"))
COMPLETING = (
    "retrain", "none", "finetune", "neggrad-plus", "random-labels", "salun", "bad-teacher", "i2i", *I2I,
)  # fmt: skip
A_THOUSAND = ("datamodel-matching", "dm-direct")
"""Their published settings rest on 1,000 models and more: hours."""
UNSPOKEN = {
    "data",
    "weights",
    "limit",
    "test_limit",
    "normalise",
    "epochs",
    "batch",
    "width",
    "length",
    "predict",
}

WHY_PUBLISHED = (
    "amnesiac: three epochs of 8 steps of 1e-4 are too few; after thirty 3 % of the class is left.",
    "bad-teacher: one epoch is two steps of 1e-4; after thirty 9 % is left.",
    "boundary-expand, boundary-shrink: steps of 1e-5 do not move the weights. What changes is that batch norm follows the "
    "forget batches; where it does not (`--no-batch-stats`), all of the class is left.",
    "cf-k, finetune, l1-sparse: nothing pushes against the class; after sixty epochs all of it is left.",
    "convolution-transpose: steps of 1e-3 do not repair in three epochs; with 0.05 nothing of the class and 98 % of the rest is left.",
    "duck: a batch of 1,024 holds all forgotten examples, so that an epoch is one step; with 64 nothing is left.",
    "gs-lora, gs-lora-pp: maps are scaled by a / r = 1/8, as a face transformer wants it; with a = r nothing is left and all is kept. "
    "On seeds 0 and 1 the group lasso takes every map to nothing, so that the result is the original bit for bit (without it, "
    "`--alpha 0`, nothing is left and all is kept); on seed 2 all of the class and four points of the rest go. Prototypes change "
    "nothing: both are equal on every seed.",
    "influence: one linear step; one 250 times as long still leaves 97 %.",
    "laf: steps of 1e-5, three in an epoch; a hundred times as large, nothing is left and all is kept.",
    "masked-small-gradients: what is drawn anew matters least, and repair brings the class back; with steps of 0.05 half of it.",
    "neggrad: five steps of 1e-4, one in an epoch; after twenty 26 % is left.",
    "neggrad-plus: after ten epochs the ascent has not begun to win, after twenty it has destroyed all, and nothing says when to stop.",
    "oracle-matching: four epochs of steps of 1e-4 end before the answers are copied; with 1e-3 nothing is left.",
    "random-labels, salun: batches of 256 make four steps an epoch, enough on one seed of three; with 32 nothing is left and all is kept.",
    "scar: a batch of 1,024 makes an epoch one step; with 64, 8 % is left.",
    "scrub: three epochs of steps of 5e-4 are too short; ten times as long ones forget all and cost the rest five points.",
    "ssd: where a tenth is forgotten no ratio of importances reaches α = 10, nor 9; at 5 nothing of the class and 99 % of the rest is left.",
    "unsir: one noise image, twenty times, and steps of 0.02 break the rest, and one epoch of four steps does not repair it; after ten "
    "nothing of the class and 99 % of the rest is left.",
)  # fmt: skip
"""On seed 0, shares of the forget set and of validation data."""


WHY_LABEL_FREE = (
    "ssd, label-free: no ratio of importances reaches α = 10 where a tenth is forgotten; with `--alpha 5` nothing of the class and "
    "98 % of the rest is left, with `--alpha 3` 51 % of the rest.",
)
WHY_VIT = (
    "finetune, salun: steps of 0.1 and 0.05 were chosen on a residual network and break a transformer; SalUn with `--lr 0.002` "
    "forgets all and keeps 96 % of the rest, fine-tuning with `--lr 0.01` leaves 13 % of the class and keeps 95 %.",
    "neggrad-plus: with `--lr 0.002` it keeps 97 % of the rest and leaves 64 % of the class.",
    "scar, scrub: the same; with `--lr 1e-4` and `--lr 1e-3` all is forgotten, and 96 and 99 % of the rest kept.",
    "ssd: with `--alpha 5` 9 % of the class is left, and 99 % of the rest kept.",
)
WHY_FACES = (
    "neggrad-plus, duck, scar, boundary-shrink: six images of one person are a batch, and batch norm follows it. "
    "Smaller steps do not help (NegGrad+ with `--lr 0.002` keeps 33 % of the rest, DUCK and SCAR with 1e-4 46 %, Boundary Shrink "
    "with 5e-4 23 %); with frozen norms NegGrad+ keeps all and forgets nothing.",
    "boundary-expand has its norms frozen and keeps 44 % of the rest, as nothing in it holds it (18 % where norms follow the "
    "batch); with `--lr 2e-5` it keeps 87 % and leaves four of the six. boundary-shrink keeps 3 % with frozen norms.",
    "salun: with `--lr 0.005` it keeps 87 % of the rest and forgets nothing.",
    "convolution-transpose: after twenty epochs of repair all of the rest is kept, and half of the six.",
    "laf: with a temperature of 1 instead of 13 the rest is lost as well.",
    "unsir: after twenty epochs of repair nothing of the person is left, and all of the rest.",
)  # fmt: skip
WHY_COMPLETION = (
    "i2i at its published setting: six epochs are 306 steps of at most 1.25e-5, too few. 73 % of the forgotten digits are still "
    "completed to their class; with `--lr 1.25e-4` 20 %, after sixty epochs 17 %, and 95 to 96 % of the retain set in every case.",
)
WHY_DDPM = (
    "i2i-diffusion at its published setting: an average that keeps 0.9999 at each of 270 steps is still the original by 97 %, and "
    "draws as it: 10 % of the digit's drawings show another one. Without the average 30 %, as many with steps of 5e-4 or α = 2 besides.",
)  # fmt: skip


WHY_FASHION = (
    "finetune: steps of 0.1 harm as much as they forget (71 % of the rest kept, of the oracle's 79); with `--lr 0.01` 11 % of the class and "
    "84 % of the rest is left.",
    "scar: patches of photographs do not hold a model of clothes; with `--lr 1e-4` it keeps 45 % of the rest, with `--lambda2 5` 29 %.",
    "ssd: hardly a ratio of importances reaches α = 9; with `--alpha 5` nothing of the class and 82 % of the rest is left, with 3 78 %.",
    "duck, scrub: they cost the rest three points of the oracle's (77 %); with `--lr 3e-4` DUCK keeps 77 %, SCRUB with `--lr 2e-3` 82 % "
    "and 19 % of the class.",
)
WHY_CIFAR10 = (
    "The oracle knows 39 % of the rest, of 110 validation examples in all: a point is one example.",
    "finetune, scrub: steps are too long here; with `--lr 0.01` and `--lr 0.002` nothing of the class and 43 and 47 % of the rest is left.",
    "neggrad-plus, duck, scar: shorter steps help less: 37 % with `--lr 0.002`, 35 % with `--lr 3e-4`, 34 % with `--lr 1e-4`.",
    "ssd: with `--alpha 5` 29 % of the class and 38 % of the rest is left.",
)
WHY_RESNET20 = (
    "salun: with `--lr 0.005` it keeps 89 % of the rest and 87 % of the class, with 0.001 92 and 97 %: what forgets harms.",
    "ssd: with `--alpha 5` nothing is forgotten either.",
)
WHY_CALIFORNIA = (
    "finetune, l1-sparse: steps of 0.1 shake a small regressor; with `--lr 0.01` both keep the rest (0.99) and come to 0.78 and 0.79 "
    "of the oracle's error on the range.",
    "neggrad: it climbs to ten times the first loss, far beyond the oracle's; with `--growth 2` 3.3 on the range and 2.2 on the rest.",
    "neggrad-plus: with `--a 0.99` 0.97 on the range and 0.99 on the rest.",
    "bad-teacher, gaussian-amnesiac: the answers that they teach lie further off than the oracle's; one pass instead of eight leaves "
    "2.4 and 1.2, and Gaussian amnesiac with `--lr 5e-4` 2.3 and 1.1.",
    "random-labels, salun: the same of drawn targets; with `--lr 0.005` 1.5 on the range, and the rest is kept (1.01).",
    "ssd: a fifth of the data is forgotten, so no ratio of importances reaches α = 9; with `--alpha 2` nothing is forgotten either.",
    "stochastic-teacher: erasing with `--erase-lr 0.1` instead of 0.01 is not repaired (3.3 and 2.3), with 0.01 repair brings back what was erased.",
)
WHY_STS = (
    "finetune: steps of 0.1 end in answers that are no numbers; with `--lr 0.01` 0.90 on the range and 0.97 on the rest, with 0.001 "
    "next to nothing is forgotten.",
    "random-labels, salun: the same of steps of 0.05; with `--lr 0.001` both come to 1.03 and 1.01.",
    "neggrad-plus: with `--a 0.99` 1.06 and 0.97; with `--lr 0.001` nothing is forgotten.",
    "gaussian-amnesiac: fifteen passes instead of six leave it where it was, at 0.76 of the oracle's error on the range.",
)
WHY_CLIP = (
    "finetune, l1-sparse, neggrad-plus, random-labels, salun: steps that suit a residual network make all answers alike (4.29). With "
    "`--lr 0.005` fine-tuning comes to 1.5 and 0.84, ℓ1-sparse to 2.4 and 0.50, random labels to 9.7 and 0.76, SalUn to 14.2 and 1.1; "
    "NegGrad+ with `--lr 0.001` to 2.5 and 0.54.",
    "neggrad: nothing holds the rest; with `--growth 2` 7.4 and 3.0.",
    "bad-teacher: an untrained teacher knows nothing, where the oracle is sure of a wrong answer; with `--lr 3e-4` 3.2 and 0.58.",
    "stochastic-teacher: the same, and its repair is too short; with sixteen passes 3.7 and 1.4, with `--erase-lr 0.001` nothing is forgotten.",
    "ssd: with `--alpha 5` 1.3 and 0.57.",
    "slug-encoder: the last forgotten images that still find a text cost the rest most. On seed 0 it leaves none and loses 27 % "
    "of the retain set; with `--left 0.1` 10 % are left and 97 % of the rest kept, with `--forget contrastive` none and 90 %.",
)
OTHERS = "the other methods for classifiers, for want of computing time"
TOO_DEEP = "cf-k and eu-k, whose default of four layers is more than this network has"
TIMES = "mean absolute errors as multiples of the oracle's, on the range that is forgotten and on validation data outside it"


@dataclass(frozen=True)
class Sheet:
    """One table: a scenario as it is typed, and methods, each a name or a pair of name and preset.

    `left_out` says what is listed and was not run; `more` names scores that the table shows
    beside those of every first table, `why` what was found where methods fail, with numbers
    that are `figures`, and `metrics` what is measured beside the basic suite.
    """

    scenario: str
    note: str = TUNED
    methods: tuple = CORE
    seeds: tuple[int, ...] = (0, 1, 2)
    left_out: str = ""
    more: tuple[str, ...] = ()
    why: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    figures: str = "shares of the forget set and of validation data"

    @property
    def title(self):
        """The scenario without what says where data are and how many of them."""
        spoken = [w for w in self.scenario.split(",") if w.partition("=")[0] not in UNSPOKEN]
        return ",".join(spoken)

    @property
    def runs(self):
        """Pairs of method and preset."""
        return [m if isinstance(m, tuple) else (m, "") for m in self.methods]


def every(subject, *without):
    """All methods that fit a built-in subject, but for weights of somebody else."""
    return tuple(n for n in fitting(subject) if n not in ("given", *without))


def published():
    """The first preset of every method for classifiers that has one, less guesses and those that ask for a thousand models."""
    named = [(n, next(iter(methods.get(n).presets), "")) for n in every("classifier")]
    return (
        "retrain",
        "none",
        *(p for p in named if p[1] not in ("", "reconstructed") and p[0] not in A_THOUSAND),
    )


LENT_MORE = {
    "resnet20": {"methods": FIVE, "why": WHY_RESNET20},
    "resnet56": {"methods": FIVE[:3]},
}


def lent(network, c):
    """Class removal from a pretrained residual network, on some images of CIFAR-10."""
    weights = {"resnet20": "resnet20-12fca82f.th", "resnet56": "resnet56-4bfd9763.th"}[network]
    place = f"network={network},weights=data/weights/{weights},normalise=imagenet,data=data/cifar10"
    limit = {"resnet20": 2000, "resnet56": 500}[network]
    text = f"cifar10/class={c},{place},limit={limit},test_limit=2000"
    if c == "ship":
        return Sheet(text, f"{LENT} {TUNED}", **LENT_MORE[network], left_out=OTHERS)
    return Sheet(text, f"{LENT} {TUNED}", FIVE, left_out=OTHERS)


CLASSIFYING = (*every("classifier"), ("ssd", "label-free"))
RELABELLING = ("retrain", "none", "amnesiac-true", "amnesiac")
SMALL = "test_limit=2000,network=resnet8,epochs=12,batch=32"
"""What two cores carry: a network is trained in a minute."""
CIFAR10 = f"limit=1000,{SMALL},data=data/cifar10"
CIFAR100 = f"predict=coarse,limit=1000,{SMALL},data=data/cifar100_subset"
FASHION = f"limit=1500,{SMALL},data=data/fashion_mnist"
FACES = (*CORE, "unsir", "boundary-shrink", "boundary-expand", "laf", "convolution-transpose")
LOW_RANK = (*CORE, "gs-lora", "gs-lora-pp")
SHEETS = {
    "digits-class-3": Sheet("digits/class=3", methods=CLASSIFYING, why=WHY_LABEL_FREE),
    "digits-random-0.1": Sheet("digits/random=0.1", methods=CLASSIFYING),
    "digits-noisy": Sheet("digits/noisy,noise=0.1", methods=CLASSIFYING),
    "digits-class-3-published": Sheet(
        "digits/class=3",
        PUBLISHED,
        published(),
        left_out="datamodel-matching and dm-direct, whose published settings rest on 1,000 models and more (hours); eu-k, which trains "
        "by the original's own recipe and has no published number of layers; stochastic-teacher and concept-poisoning, "
        "reconstructed from abstracts without settings; scar-self, which has no preset; amnesiac-true, which needs another original "
        "(digits-recorded-class)",
        why=WHY_PUBLISHED,
    ),
    "digits-vit-class-3": Sheet("digits/class=3,network=vit", methods=LOW_RANK, why=WHY_VIT, left_out=OTHERS),
    "digits-sisa-random": Sheet(
        "digits/random=0.01,deletable=sisa:5x4", EXACT, ("retrain", "none", "sisa"), more=CAPACITY
    ),
    "digits-s3t-random": Sheet(
        "digits/random=0.01,deletable=s3t:5x4", EXACT, ("retrain", "none", "sisa", "s3t"), more=CAPACITY
    ),
    **{
        f"digits-recorded-{kind}": Sheet(
            f"digits/{text},deletable=updates",
            RECORDED,
            RELABELLING,
            left_out="the other methods for classifiers, which do on this original what they do on one without a record",
        )
        for kind, text in (
            ("class", "class=3"),
            ("random", "random=0.1"),
            ("noisy", "noisy,noise=0.1"),
            ("few", "random=0.01"),
        )
    },
    "digits-vit-in-turn": Sheet(
        "digits/class=1+2+3+4,network=vit", methods=LOW_RANK, more=("h-mean", "drop/earlier"), left_out=OTHERS
    ),
    "digits-clip-class-three": Sheet(
        "digits-clip/class=three",
        methods=every("dual-encoder", "datamodel-matching"),
        left_out="datamodel-matching, which trains 32 of these encoders for each seed",
        why=WHY_CLIP,
        figures="mean losses on the forget set and on validation data of the rest; the oracle's are 14.8 and 0.25, those before 0.24 and 0.55",
    ),
    "faces-class-s1": Sheet("faces/class=s1,data=data/faces", methods=FACES, why=WHY_FACES, left_out=OTHERS),
    "fashion-class": Sheet(f"fashion-mnist/class=Dress,{FASHION}", why=WHY_FASHION, left_out=OTHERS),
    "fashion-random": Sheet(f"fashion-mnist/random=0.1,{FASHION}", left_out=OTHERS),
    **{
        f"cifar100-subclass-{c}": Sheet(f"cifar100/subclass={c},{CIFAR100}", methods=FIVE, left_out=OTHERS)
        for c in ("rocket", "mushroom", "baby", "lamp", "sea")
    },
    "cifar10-small-class-ship": Sheet(f"cifar10/class=ship,{CIFAR10}", why=WHY_CIFAR10, left_out=OTHERS),
    "cifar10-small-random": Sheet(f"cifar10/random=0.1,{CIFAR10}", methods=SEVEN, left_out=OTHERS),
    **{f"cifar10-resnet20-class-{c}": lent("resnet20", c) for c in ("ship", "cat", "deer")},
    "cifar10-resnet56-class-ship": lent("resnet56", "ship"),
    "diabetes-range": Sheet(
        "diabetes/range=25:80", VALUES, every("regressor", "cf-k", "eu-k"), left_out=TOO_DEEP
    ),
    "california-range": Sheet(
        "california-housing/range=0:1,data=data/tabular",
        VALUES,
        every("regressor", "cf-k", "eu-k", "datamodel-matching", "oracle-matching"),
        left_out=f"{TOO_DEEP}; datamodel-matching and oracle-matching, which train models of their own, for want of computing time",
        why=WHY_CALIFORNIA,
        figures=TIMES,
    ),
    "sts-range": Sheet(
        "sts/range=0:2,limit=1200,width=32,length=16,epochs=15,data=data/sts",
        VALUES,
        REGRESSING,
        left_out="the other methods for regressors, for want of computing time",
        why=WHY_STS,
        figures=TIMES,
    ),
    "digits-completion-class-3": Sheet(
        "digits-completion/class=3", HOLE, (*COMPLETING, ("i2i", "paper")), why=WHY_COMPLETION
    ),
    "digits-ddpm-concept-3": Sheet(
        "digits-ddpm/concept=3,epochs=50,drawings=10",
        DRAWN,
        DRAWING,
        metrics=("erasure",),
        more=("erasure/ua", "erasure/in-domain"),
        why=WHY_DDPM,
    ),
    "mnist-completion-class-3": Sheet(
        "mnist-completion/class=3,limit=1500,test_limit=1000,epochs=15,data=data/mnist", HOLE, COMPLETING
    ),
}
