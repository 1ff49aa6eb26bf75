"""One model of each family that timm and torchvision know, checked as the sweep checks them all.

Bitwise against the eager model, a finite gradient wherever full-mode gives one, and low-mode against an eager low-mode
that knows no graphs. How many kernels are pooled, and on what images the pair trains, are literal here.
"""

from __future__ import annotations

import pytest

from bench.zoo.check import check_model

#: name → (pooled kernels, how it takes low-mode: as it is; at an image size that halves more often; with a map resized
#: where its size is fixed; on full-size images, with only kernels pooled)
QUICK = {
    "test_byobnet": (5, "fits"),  # byobnet
    "test_convnext": (9, "fits"),  # convnext
    "dla46x_c": (14, "rounded"),  # dla
    "test_efficientnet": (3, "fits"),  # efficientnet
    "test_mambaout": (10, "fits"),  # mambaout
    "mobilenetv3_small_050": (8, "fits"),  # mobilenetv3
    "test_nfnet": (11, "fits"),  # nfnet
    "pit_ti_224": (0, "resized"),  # pit
    "regnetx_002": (13, "fits"),  # regnet
    "test_resnet": (9, "fits"),  # resnet
    "legacy_seresnet18": (16, "fits"),  # senet
    "shvit_s1": (3, "fits"),  # shvit
    "starnet_s050": (16, "fits"),  # starnet
    "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn": (8, "fits"),  # torchvision.detection.faster_rcnn
    "torchvision:resnet18": (16, "fits"),  # torchvision.resnet
    "torchvision:lraspp_mobilenet_v3_large": (6, "fits"),  # torchvision.segmentation.lraspp
    "torchvision:shufflenet_v2_x0_5": (0, "fits"),  # torchvision.shufflenetv2
}
SLOW = {
    "cpubone_nano": (7, "fits"),  # cpubone
    "cs3darknet_focus_s": (13, "fits"),  # cspnet
    "cspnext_tiny": (14, "fits"),  # cspnext
    "dpn48b": (16, "fits"),  # dpn
    "edgenext_xx_small": (7, "fits"),  # edgenext
    "efficientvim_m1": (3, "fits"),  # efficientvim
    "efficientvit_b0": (0, "fits"),  # efficientvit_mit
    "efficientvit_m0": (3, "fits"),  # efficientvit_msra
    "fasternet_t0": (13, "fits"),  # fasternet
    "fastvit_t8": (13, "fits"),  # fastvit
    "ghostnet_050": (4, "fits"),  # ghostnet
    "hardcorenas_b": (10, "fits"),  # hardcorenas
    "hgnetv2_b0": (18, "fits"),  # hgnet
    "iformer_t": (15, "fits"),  # iformer
    "inception_next_atto": (24, "fits"),  # inception_next
    "lcnetv2_small": (6, "fits"),  # lcnetv2
    "lowformer_b0": (14, "fits"),  # lowformer
    "test_coatnet": (1, "resized"),  # maxxvit
    "poolformerv2_s12": (3, "fits"),  # metaformer
    "mobilevit_xxs": (0, "fits"),  # mobilevit
    "pvt_v2_b0": (3, "fits"),  # pvt_v2
    "repghostnet_050": (4, "fits"),  # repghost
    "repvit_m1": (1, "fits"),  # repvit
    "resnest14d": (6, "fits"),  # resnest
    "resnetv2_18": (16, "fits"),  # resnetv2
    "rexnet_100": (0, "fits"),  # rexnet
    "skresnet18": (24, "fits"),  # sknet
    "swiftformer_xs": (4, "fits"),  # swiftformer
    "tiny_vit_5m_224": (1, "fits"),  # tiny_vit
    "torchvision:fcos_resnet50_fpn": (21, "fits"),  # torchvision.detection.fcos
    "torchvision:ssdlite320_mobilenet_v3_large": (6, "fits"),  # torchvision.detection.ssdlite
    "torchvision:efficientnet_b0": (9, "fits"),  # torchvision.efficientnet
    "torchvision:googlenet": (19, "fits"),  # torchvision.googlenet
    "torchvision:mnasnet0_5": (10, "fits"),  # torchvision.mnasnet
    "torchvision:mobilenet_v2": (0, "fits"),  # torchvision.mobilenetv2
    "torchvision:mobilenet_v3_small": (8, "fits"),  # torchvision.mobilenetv3
    "torchvision:regnet_x_1_6gf": (18, "fits"),  # torchvision.regnet
    "torchvision:deeplabv3_mobilenet_v3_large": (10, "fits"),  # torchvision.segmentation.deeplabv3
    "torchvision:squeezenet1_1": (8, "fits"),  # torchvision.squeezenet
    "visformer_tiny": (7, "resized"),  # visformer
    "ese_vovnet19b_slim_dw": (0, "fits"),  # vovnet
    "legacy_xception": (1, "fits"),  # xception
    "xcit_nano_12_p8_224": (2, "fits"),  # xcit
    "coat_tiny": (52, "whole"),  # coat
    "convmixer_768_32": (32, "fits"),  # convmixer
    "crossvit_9_dagger_240": (3, "fits"),  # crossvit
    "csatv2": (42, "fits"),  # csatv2
    "davit_tiny": (0, "fits"),  # davit
    "densenet121": (58, "fits"),  # densenet
    "efficientformer_l1": (4, "resized"),  # efficientformer
    "efficientformerv2_s0": (4, "resized"),  # efficientformer_v2
    "focalnet_tiny_srf": (12, "fits"),  # focalnet
    "gcvit_xxtiny": (4, "resized"),  # gcvit
    "hrnet_w18_small": (64, "rounded"),  # hrnet
    "inception_resnet_v2": (103, "fits"),  # inception_resnet_v2
    "inception_v3": (53, "fits"),  # inception_v3
    "inception_v4": (87, "fits"),  # inception_v4
    "levit_128s": (3, "resized"),  # levit
    "mobilenetv5_base": (12, "fits"),  # mobilenetv5
    "mvitv2_tiny": (0, "fits"),  # mvitv2
    "nasnetalarge": (104, "fits"),  # nasnet
    "nest_tiny": (2, "whole"),  # nest
    "nextvit_small": (23, "fits"),  # nextvit
    "pnasnet5large": (84, "fits"),  # pnasnet
    "rdnet_tiny": (21, "fits"),  # rdnet
    "res2next50": (48, "fits"),  # res2net
    "selecsls42": (21, "fits"),  # selecsls
    "torchvision:alexnet": (4, "fits"),  # torchvision.alexnet
    "torchvision:convnext_tiny": (18, "fits"),  # torchvision.convnext
    "torchvision:densenet121": (58, "fits"),  # torchvision.densenet
    "torchvision:keypointrcnn_resnet50_fpn": (20, "fits"),  # torchvision.detection.keypoint_rcnn
    "torchvision:maskrcnn_resnet50_fpn": (20, "fits"),  # torchvision.detection.mask_rcnn
    "torchvision:retinanet_resnet50_fpn": (21, "fits"),  # torchvision.detection.retinanet
    "torchvision:ssd300_vgg16": (17, "resized"),  # torchvision.detection.ssd
    "torchvision:inception_v3": (54, "resized"),  # torchvision.inception
    "torchvision:maxvit_t": (1, "resized"),  # torchvision.maxvit
    "torchvision:fcn_resnet50": (17, "fits"),  # torchvision.segmentation.fcn
    "torchvision:vgg11": (7, "fits"),  # torchvision.vgg
    "torchvision:mvit_v2_s": (0, "resized"),  # torchvision.video.mvit
    "torchvision:mc3_18": (16, "fits"),  # torchvision.video.resnet
    "torchvision:s3d": (39, "fits"),  # torchvision.video.s3d
    "tresnet_m": (28, "fits"),  # tresnet
    "twins_svt_small": (0, "fits"),  # twins
    "vgg11": (7, "fits"),  # vgg
    "samvit_base_patch16": (1, "fits"),  # vision_transformer_sam
    "vitamin_small_224": (2, "resized"),  # vitamin
    "volo_d1_224": (2, "resized"),  # volo
    "xception41p": (1, "fits"),  # xception_aligned
}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_model_of_the_family_gives_a_right_pair(name: str) -> None:
    record = check_model(name)
    assert record.status == "right", record.reason
    assert (record.pooled_convs, record.kind) == {**QUICK, **SLOW}[name]
    assert record.gradients_checked and 0 < record.low_macs < record.full_macs
    assert record.poolable_convs >= record.pooled_convs


def test_no_family_is_tested_twice() -> None:
    assert not QUICK.keys() & SLOW.keys()
    assert len(QUICK) == 17
